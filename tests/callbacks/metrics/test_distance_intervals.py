"""The intervals of FID, KID and CMMD as the callbacks take them."""

import json

import numpy as np
import pytest
import torch

from callbacks import CMMDCallback, FIDCallback, KIDCallback
from fewstep.metrics.frechet import FeatureMoments, frechet_influence
from fewstep.metrics.intervals import influence_interval
from tests.callbacks.image_run import FEW, Loader, Projection, run, table, to_uint8

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:.*(does not have many workers|biased upwards|sync_dist)")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def moments(features):
    result = FeatureMoments(features.shape[1])
    result.add(features)
    return result.gaussian()


def interval_metrics():
    options = {"network": Projection(), "interval": True}
    return [FIDCallback(**options), KIDCallback(**options, **FEW), CMMDCallback(**options)]


@pytest.fixture(scope="module")
def intervals(tmp_path_factory):
    """Of one process, by key, and the values."""
    folder = tmp_path_factory.mktemp("intervals")
    callbacks = interval_metrics()
    for callback in callbacks:
        callback.cache_dir = str(folder)
    logged = run(folder, callbacks)[0]
    return {
        key: entry["interval"] for c in callbacks for key, entry in c.measured.items() if "interval" in entry
    }, logged


def test_intervals_stand_beside_the_values(tmp_path, intervals):
    found, logged = intervals
    assert found.keys() == {"test/fd_projection", "test/kd_projection", "test/cmmd_projection"}
    assert all(low < logged[key] < high for key, (low, high) in found.items())
    without = [FIDCallback(Projection()), KIDCallback(Projection(), **FEW), CMMDCallback(Projection())]
    assert run(tmp_path, without)[0] == logged  # and change nothing
    assert not any("interval" in entry for c in without for entry in c.measured.values())
    columns, network = table(), Projection()
    real, made = network(to_uint8(columns["image"])), network(to_uint8(columns["made"]))
    influence = frechet_influence(moments(real), moments(made), made, real)
    assert found["test/fd_projection"] == pytest.approx(
        influence_interval(logged["test/fd_projection"], influence), rel=1e-5
    )


@pytest.mark.parametrize("alone", ["", "nothing"])
def test_intervals_of_two_processes_are_those_of_one(tmp_path, intervals, alone):
    run(tmp_path, interval_metrics(), Loader(table(), alone=alone), devices=2, strategy="ddp_fork")
    lines = [json.loads(line) for line in (tmp_path / "logs" / "measurements.jsonl").read_text().splitlines()]
    found = {line["key"]: line["interval"] for line in lines if "interval" in line}
    assert found == {key: pytest.approx(ends, rel=1e-5) for key, ends in intervals[0].items()}


def test_an_interval_needs_few_of_the_features_and_no_real_images(tmp_path, intervals, monkeypatch):
    low, high = intervals[0]["test/fd_projection"]
    monkeypatch.setattr("callbacks.metrics.fid.KEPT", 40)
    some = FIDCallback(Projection(), interval=True)
    run(tmp_path, [some])
    ends = some.measured["test/fd_projection"]["interval"]
    assert ends[1] - ends[0] == pytest.approx(high - low, rel=0.15)  # as of all 45
    assert ends[1] - ends[0] != pytest.approx(high - low, rel=1e-6)
    side = moments(Projection()(to_uint8(table()["image"])))
    np.savez(tmp_path / "reference.npz", mu=side.mean.numpy(), sigma=side.covariance.numpy())
    known = FIDCallback(Projection(), reference=str(tmp_path / "reference.npz"), interval=True)
    columns = {name: column for name, column in table().items() if name != "image"} | {"image": table()["made"]}
    run(tmp_path, [known], Loader(columns))
    ends = known.measured["test/fd_projection"]["interval"]
    assert ends[1] - ends[0] < high - low  # what is known exactly adds nothing
