"""Trackio: every value of a run in a folder of this machine, nothing anywhere else."""

import csv
import importlib.util
import json
import shutil
import socket
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import evaluate
from callbacks.tracking.trackio_logger import TrackioLogger
from commands.report.tracked import record_locally


@pytest.fixture(scope="module", autouse=True)
def dashboards(tmp_path_factory):
    """Trackio's folder, which it reads once: when it is first imported, by a test below."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("trackio")
        patch.setenv("TRACKIO_DIR", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    """Whoever looks for a server ends the test; the environment asks for some."""
    monkeypatch.setenv("TRACKIO_SPACE_ID", "someone/space")
    monkeypatch.setenv("TRACKIO_SERVER_URL", "http://127.0.0.1:9/?write_token=x")
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 34)

    def refuse(*address, **options):
        asked.append(address)
        raise OSError("no network in this test")

    asked = []
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    yield
    assert asked == []


def rows(folder, project):
    """(run id, run name, step, values) of every row, in the order of writing."""
    with sqlite3.connect(folder / f"{project}.db") as database:
        found = database.execute("select run_id, run_name, step, metrics from metrics order by id").fetchall()
    return [(run, name, step, json.loads(values)) for run, name, step, values in found]


def test_a_resumed_run_goes_on_under_its_id_in_whatever_folder(tmp_path, dashboards, capsys):
    for number, folder in enumerate(["one", "one", "moved", "one"]):
        if folder == "moved":
            shutil.move(tmp_path / "one", tmp_path / "moved")
        logger = TrackioLogger(str(tmp_path / folder), f"runs-{folder}", "resumed")
        logger.log_metrics({"val/nll": 1.0 / (number + 1)}, step=number)
        assert logger.version == (tmp_path / folder / "trackio" / "run_id.txt").read_text().strip()
        assert logger.close() == "trackio show --project resumed"
    written = rows(dashboards, "resumed")
    assert [(step, values) for _, _, step, values in written] == [(n, {"val/nll": 1.0 / (n + 1)}) for n in range(4)]
    ids = [run for run, *_ in written]
    assert ids[0] == ids[1] == ids[2] != ids[3]
    assert ids == [name for _, name, *_ in written]  # a dashboard draws one line for each pair
    assert capsys.readouterr().out == ""


def test_pictures_tables_and_histograms_lie_beside_the_values_of_their_step(tmp_path, dashboards):
    picture = tmp_path / "grid.png"
    Image.new("RGB", (4, 4), "red").save(picture)
    logger = TrackioLogger(str(tmp_path), "name", "media")
    logger.log_metrics({"val/nll": float("nan"), "epoch": 1}, step=7)
    logger.log_image("val/samples", [str(picture)])
    logger.log_histograms({"val/score": np.array([0.0, 1.0, np.nan, np.inf]), "val/empty": np.array([np.nan])}, 7)
    logger.log_sample_table("val/sample_table", ["key", "image"], [["a", picture.read_bytes()]], 7)
    logger.close()
    values = {}
    for _, _, step, some in rows(dashboards, "media"):
        assert step == 7
        values |= some
    assert values["val/nll"] == "NaN"
    assert sum(values["val/score"]["values"]) == 2
    assert "val/empty" not in values
    (row,) = values["val/sample_table"]["_value"]
    assert row["key"] == "a"
    for shown in (values["val/samples"], row["image"]):
        with Image.open(dashboards / "media" / shown["file_path"]) as kept:
            assert kept.convert("RGB").getpixel((0, 0)) == (255, 0, 0)


def test_what_looks_like_a_secret_is_not_recorded(tmp_path, dashboards):
    logger = TrackioLogger(str(tmp_path), "name", "secrets", {"model": {"api_key": "abc", "width": 7}})
    logger.log_metrics({"a": 1.0}, 0)
    logger.close()
    content = (dashboards / "secrets.db").read_bytes()
    assert b'"width":7' in content.replace(b" ", b"")
    assert b"abc" not in content


def test_a_run_that_cannot_start_records_nothing_and_trains(tmp_path, monkeypatch, capsys):
    import trackio.run

    monkeypatch.setattr(trackio.run.Run, "__init__", lambda self, **options: open("/nowhere/at/all"))  # noqa: SIM115
    logger = TrackioLogger(str(tmp_path), "name", "absent")
    for step in range(2):
        logger.log_metrics({"a": 1.0}, step)
    logger.log_image("x", ["missing.png"])
    assert logger.close() is None
    assert capsys.readouterr().out.count("Trackio: start failed") == 1


def test_a_picture_that_cannot_be_read_is_said_once(tmp_path, dashboards, capsys):
    logger = TrackioLogger(str(tmp_path), "name", "pictures")
    for _ in range(2):
        logger.log_sample_table("t", ["image"], [[b"no picture"]], 0)
    logger.log_metrics({"a": 1.0}, step=1)
    logger.close()
    assert capsys.readouterr().out.count("Trackio: sample table failed") == 1
    assert rows(dashboards, "pictures")[-1][2:] == (1, {"a": 1.0})


def test_a_run_records_every_value_of_its_own_table(fit, dashboards, capsys):
    options = ("--trackio", "local", "--wandb_project", "whole run", "--trainer.log_every_n_steps", "5")
    assert fit("--run_dir", "run", *options, "--trainer.max_steps", "10") == 0
    assert "dashboard      trackio show --project 'whole run'" in capsys.readouterr().out
    assert fit("--run_dir", "run", *options, "--resume", "auto") == 0
    with Path("run/logs/metrics.csv").open() as file:
        own = [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]
    written = rows(dashboards, "wholerun")
    assert len({run for run, *_ in written}) == 1
    kept = [{key: str(value) for key, value in values.items()} | {"step": str(step)} for *_, step, values in written]
    order = sorted(kept, key=lambda row: sorted(row.items()))
    assert order == sorted(own, key=lambda row: sorted(row.items()))
    assert {"train/loss", "val/nll", "test/nll"} <= {key for row in kept for key in row}


def test_without_the_package_one_line_says_how_to_get_it(fit, monkeypatch, capsys):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "trackio" else found(name, *rest)
    )
    assert fit("--trackio", "local") == 2
    assert capsys.readouterr().err == (
        "error: --trackio local needs the package trackio; pip install 'fewstep[trackio]'\n"
    )
    assert not Path("runs").exists()


def test_the_table_of_an_evaluation_is_recorded(tmp_path, dashboards):
    run = {"checkpoint": "a.ckpt", "config": "c.yaml", "data": {}, "metrics": {"test/nll": 1.5}}
    run |= {"intervals": {"test/nll": [1.0, 2.0]}, "sampling": {"nfe": 4}}
    assert record_locally(tmp_path, [run], "evaluated") == "trackio show --project evaluated"
    ((_, name, _, values),) = rows(dashboards, "evaluated")
    assert name.startswith(tmp_path.name)
    (line,) = values["evaluation"]["_value"]
    assert {key: line[key] for key in ("metric", "value", "low", "high", "nfe")} == {
        "metric": "test/nll", "value": 1.5, "low": 1.0, "high": 2.0, "nfe": 4,
    }  # fmt: skip


def test_an_evaluation_without_the_package_is_one_line(tmp_path, monkeypatch, capsys):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "trackio" else found(name, *rest)
    )
    assert evaluate.main(["RUN", "--out", str(tmp_path / "out"), "--trackio", "local"]) == 2
    assert capsys.readouterr().err == (
        "error: --trackio local needs the package trackio; pip install 'fewstep[trackio]'\n"
    )
