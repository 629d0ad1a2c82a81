"""A resumed run sees the data of its checkpoint, wherever the folder lies."""

import json
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest

from callbacks import DataIdentity
from callbacks.checkpoints.data_manifest import data_identities
from callbacks.checkpoints.restored_state import CALLBACKS


@pytest.fixture
def trained(fit) -> None:
    """A run on the folder `data`; `copy` has the same index.json, `other` another one, `loose` none."""
    for name, samples in (("data", 5), ("copy", 5), ("other", 6)):
        Path(name).mkdir()
        index = {"name": "tiny", "splits": {"train": {"samples": samples, "shards": []}}}
        Path(name, "index.json").write_text(json.dumps(index))
    Path("loose").mkdir()
    assert fit("--run_dir", "run", "--trainer.max_steps", "2", "--data.path", "data") == 0


AGAIN = ["--run_dir", "run", "--resume", "auto", "--trainer.max_steps", "4"]


def test_other_data_stop_the_run_before_its_folder_is_touched(fit, trained, capsys):
    before = {p: p.stat().st_mtime_ns for p in Path("run").rglob("[!.]*")}
    capsys.readouterr()
    assert fit(*AGAIN, "--data.path", "other") == 2
    err = capsys.readouterr().err
    assert "error: the checkpoint was trained on the data tiny (" in err
    assert err.endswith("or go on with these by --callbacks.data_identity null\n")
    assert err.count("\n") == 1
    assert {p: p.stat().st_mtime_ns for p in Path("run").rglob("[!.]*")} == before
    assert fit(*AGAIN, "--data.path", "other", "--callbacks.data_identity", "null") == 0


def test_the_same_data_elsewhere_and_data_that_tell_nothing_go_on(fit, trained, capsys):
    assert fit(*AGAIN, "--data.path", "copy") == 0
    assert "data identity" not in capsys.readouterr().err
    assert fit(*AGAIN[:-1], "6", "--data.path", "loose") == 0
    line = "data identity: loose has no index.json and no shards on this machine; the data are not compared\n"
    assert capsys.readouterr().err.count(line) == 1


def test_an_index_that_cannot_be_read_is_said_and_compared_the_next_time(fit, trained, capsys):
    assert fit(*AGAIN, "--data.path", "nowhere://store/data") == 0
    err = capsys.readouterr().err
    assert "data identity: index.json of nowhere://store/data cannot be read: ValueError; the data are not" in err
    assert fit(*AGAIN, "--trainer.max_steps", "6", "--data.path", "other") == 2


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Folders a/d, b/d, c/d, which their indexes call `d`; loose shards in x, y and, with names and sizes of x, z."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate("abc"):
        Path(name, "d").mkdir(parents=True)
        Path(name, "d", "index.json").write_text(json.dumps({"name": "d", "notes": number, "splits": {}}))
    for name, sizes in (("x", (5, 6)), ("y", (5, 7)), ("z", (5, 6))):
        Path(name).mkdir()
        for number, size in enumerate(sizes):
            Path(name, f"{number}.tar").write_bytes(bytes(size))


def state_of(path) -> dict:
    """What a run on this data keeps in its checkpoint."""
    callback = DataIdentity()
    data = SimpleNamespace(hparams={"path": path})
    callback.setup(SimpleNamespace(datamodule=data, is_global_zero=True), None, "fit")
    return callback.state_dict()


def resumes(state: dict, path) -> bool:
    callback = DataIdentity()
    data = SimpleNamespace(hparams={"path": path})
    callback.setup(SimpleNamespace(datamodule=data, is_global_zero=True), None, "fit")
    checkpoint = {"callbacks": {callback.state_key: state}}
    CALLBACKS["DataIdentity"](state, "state")
    try:
        callback.on_load_checkpoint(SimpleNamespace(state=SimpleNamespace(fn="fit")), None, checkpoint)
    except ValueError:
        return False
    return True


SAME = [  # each line is one data set, written in several ways
    ["a/d", ["a/d"], "a/d/"],
    ["b/d"],
    [["a/d", "b/d"], ["b/d", "a/d"], "{a,b}/d"],
    [["a/d", "c/d"]],
    [["b/d", "c/d"]],
    [["a/d", "b/d", "c/d"]],
    [["a/d", "a/d"]],
    ["x", "z", "x/{0..1}.tar", ["x/0.tar", "z/1.tar"]],
    ["y"],
    ["x/0.tar", "y/0.tar"],
    ["x/1.tar"],
    [["x", "z"]],
    [["a/d", "x"], ["z/{0..1}.tar", "a/d"]],
    [["a/d", "y"]],
]


@pytest.mark.parametrize("first", range(len(SAME)))
def test_every_part_of_the_data_is_compared(places, first):
    for one, (second, others) in product(SAME[first], enumerate(SAME)):
        state = state_of(one)
        for other in others:
            assert resumes(state, other) == (first == second), (one, other)


def test_checkpoints_of_before_are_compared_as_they_were(places):
    digest = {name: data_identities(f"{name}/d")[0][0]["sha256"] for name in "abc"}
    both, others = ["a/d", "b/d"], ["a/d", "c/d"]
    last_of_a_name = {"digests": {"d": digest["b"]}}
    every = {"digests": {"d": digest["a"], "d 1": digest["b"]}}
    for old, good, bad in (
        (last_of_a_name, both, others),
        (every, both, others),
        (every, ["b/d", "x", "a/d"], "a/d"),
        ({"digests": {"d": digest["a"]}}, "a/d", "b/d"),
        ({"digests": {"d": digest["a"]}}, ["a/d", "x"], ["b/d", "x"]),  # loose shards were not kept
    ):
        assert resumes(old, good), (old, good)
        assert not resumes(old, bad), (old, bad)
    assert resumes({"digests": {}}, "x")
    assert resumes({"digests": {}}, "a/d")


def test_what_older_versions_compare_is_kept_too(places):
    assert state_of(["a/d", "b/d", "x"])["digests"] == {"d": data_identities("b/d")[0][0]["sha256"]}


def test_data_that_cannot_be_told_apart_are_said_in_one_line(places, capsys):
    Path("empty").mkdir()
    for path in ("empty", ["a/d", "empty"], ["x", "empty"], "s3://b/{0..99}.tar"):
        state_of(path)
        err = capsys.readouterr().err
        assert err.endswith("has no index.json and no shards on this machine; the data are not compared\n")
        assert err.count("\n") == 1
    for path in ("x", "a/d", ["x", "a/d"], None, "not there", "x/{0..1}.tar", "{a,b}/d"):
        state_of(path)
        assert capsys.readouterr().err == ""


def test_a_name_does_nothing_to_the_terminal(places):
    Path("a/d/index.json").write_text(json.dumps({"name": "\x1b[31m\nd", "splits": {}}))
    callback = DataIdentity()
    checkpoint = {"callbacks": {callback.state_key: state_of("a/d")}}
    callback._state = state_of("b/d")
    with pytest.raises(ValueError, match="trained on the data") as caught:
        callback.on_load_checkpoint(SimpleNamespace(state=SimpleNamespace(fn="fit")), None, checkpoint)
    assert str(caught.value).isprintable()
