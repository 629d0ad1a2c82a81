"""A resumed run sees the data of its checkpoint, wherever the folder lies."""

import json
from pathlib import Path

import pytest


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


@pytest.mark.parametrize("path", ["data", "copy", "loose"])
def test_the_same_data_elsewhere_and_data_without_an_index_go_on(fit, trained, path):
    assert fit(*AGAIN, "--data.path", path) == 0


def test_an_index_that_cannot_be_read_is_said_and_compared_the_next_time(fit, trained, capsys):
    assert fit(*AGAIN, "--data.path", "nowhere://store/data") == 0
    err = capsys.readouterr().err
    assert "data identity: index.json of nowhere://store/data cannot be read: ValueError; the data are not" in err
    assert fit(*AGAIN, "--trainer.max_steps", "6", "--data.path", "other") == 2
