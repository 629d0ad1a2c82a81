"""--dry_run: everything is tried, nothing is left."""

import tempfile
from pathlib import Path

import pytest
import torch

from callbacks.checkpoints.folder import size_of
from callbacks.checkpoints.monitored_metrics import KEY
from commands.train.dry_run import DryRun, describe


def test_it_measures_and_leaves_nothing(fit, capsys, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    assert fit("--dry_run", "--wandb", "offline") == 0
    assert sorted(p.name for p in Path().iterdir()) == ["scratch", "tiny.yaml"]
    assert list(scratch.iterdir()) == []
    out = capsys.readouterr().out
    assert "x float32 [16, 2]" in out
    assert "y float32 [16, 1]" in out
    assert "17 trainable, 0 frozen" in out
    assert "2 ran" in out
    for row in ("validation batch", "test batch", "disk", "peak memory", "checkpoint"):
        assert row in out


def test_a_folder_chosen_for_checkpoints_stays_empty(fit):
    """save_last makes Lightning write at the end even of a fast_dev_run."""
    own = ["--callbacks.checkpoint.save_last", "true", "--callbacks.checkpoint.dirpath", "elsewhere"]
    assert fit("--dry_run", *own) == 0
    assert [p.name for p in Path().iterdir()] == ["tiny.yaml"]


@pytest.mark.parametrize("arguments", [["--data.path", "late"], ["--model.fail_at", "1"]])
def test_a_failure_is_one_line_and_leaves_nothing(fit, capsys, arguments):
    assert fit("--dry_run", *arguments) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "works" not in out
    assert [p.name for p in Path().iterdir()] == ["tiny.yaml"]


def test_a_disk_too_small_is_refused(fit, capsys, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 100})())
    assert fit("--dry_run") == 2
    assert "too little disk" in capsys.readouterr().err


def test_the_checkpoint_estimate_is_that_of_a_real_checkpoint(fit, load, capsys):
    """Parameters, average, two Adam moments, one Adam counter for each of 4 tensors, the threshold of the best one."""
    assert fit("--run_dir", "run", "--trainer.max_steps", "2") == 0
    checkpoint = load("run/checkpoints/last.ckpt")
    del checkpoint[KEY]  # the newest metrics, a number each, which nobody has before a run
    real = size_of(checkpoint)
    assert real == (17 * 4 + 4 + 1) * 4
    estimates = []
    check = DryRun.check_disk
    patch = pytest.MonkeyPatch()
    patch.setattr(DryRun, "check_disk", lambda self: (estimates.append(self._checkpoint_bytes), check(self)))
    assert fit("--dry_run") == 0
    patch.undo()
    assert estimates == [real]


def test_describe_any_nesting():
    assert describe([{"a": torch.zeros(2, dtype=torch.uint8)}, 3]) == "list of 2: a uint8 [2]"
