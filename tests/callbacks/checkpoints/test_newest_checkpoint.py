"""Which checkpoint `--resume auto` takes."""

import os
import shutil

import pytest
import torch

from callbacks import AtomicCheckpointIO
from callbacks.checkpoints.newest_checkpoint import newest_checkpoint


def whole(step: int, value: float = 1.0) -> dict:
    weights = {"w": torch.full((2000,), value), "count": torch.tensor(3), "bare": torch.empty(0)}
    return {
        "state_dict": weights,
        "global_step": step,
        "pytorch-lightning_version": "2.6.6",
        "callbacks": {},
        "loops": {"fit_loop": {}},
        "optimizer_states": [],
        "lr_schedulers": [],
    }


@pytest.fixture
def run(tmp_path):
    """best.ckpt of step 10, last-1.ckpt of step 20, last.ckpt of step 30."""
    io = AtomicCheckpointIO()
    for name, step in (("best", 10), ("last", 20), ("last", 30)):
        io.save_checkpoint(whole(step), tmp_path / "checkpoints" / f"{name}.ckpt")
    return tmp_path


def chosen(run) -> str | None:
    found = newest_checkpoint([run / "checkpoints"])
    return found and found.name


def test_the_last_that_was_written(run):
    assert chosen(run) == "last.ckpt"


def test_a_copy_with_other_times_is_the_same_run(run, tmp_path_factory):
    copy = tmp_path_factory.mktemp("copy") / "run"
    shutil.copytree(run, copy, copy_function=shutil.copyfile)
    for age, name in enumerate(("best", "last-1", "last")):
        os.utime(copy / "checkpoints" / f"{name}.ckpt", (1e9 - age, 1e9 - age))
    assert chosen(copy) == "last.ckpt"


def flip(path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:4000] + bytes([content[4000] ^ 1]) + content[4001:])


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-300]), "its end is missing"),
        (flip, "the checksum of its member"),
        (lambda p: AtomicCheckpointIO(keep_previous=()).save_checkpoint(whole(40, torch.nan), p), "weights hold NaN"),
        (lambda p: torch.save({"w": torch.zeros(1)}, p), "is not a Lightning checkpoint"),
        (lambda p: torch.save({"state_dict": {}}, p), "it has weights only"),
    ],
)
def test_a_broken_one_is_passed_over_in_one_line(run, capsys, harm, said):
    harm(run / "checkpoints" / "last.ckpt")
    assert chosen(run) == "last-1.ckpt"
    err = capsys.readouterr().err
    assert said in err
    assert err.startswith("skipped ")
    assert err.count("\n") == 1


def test_a_constant_that_is_nan_does_not_send_a_run_back_to_the_beginning(run, capsys):
    for name in ("best", "last-1", "last"):
        path = run / "checkpoints" / f"{name}.ckpt"
        stored = torch.load(path, weights_only=True)
        stored["state_dict"]["mask"] = torch.tensor([0.0, torch.nan])
        torch.save(stored, path)
    assert chosen(run) == "last.ckpt"
    assert capsys.readouterr().err.count("hold NaN") == 3


def test_nothing_there(tmp_path):
    assert chosen(tmp_path) is None
