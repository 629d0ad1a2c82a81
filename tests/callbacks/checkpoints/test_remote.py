"""Checkpoints behind an address: the same promises as far as a store allows."""

import fsspec
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem

from callbacks import AtomicCheckpointIO, LastCheckpoint
from callbacks.checkpoints.reading import read_checkpoint

STORE = fsspec.filesystem("memory")


def state(step: int) -> dict:
    return {"state_dict": {"w": torch.full((100_000,), float(step))}, "global_step": step}


@pytest.fixture
def address(tmp_path) -> str:
    return f"memory://{tmp_path.name}/run/last.ckpt"


def names(address: str) -> list[str]:
    return sorted(name.rpartition("/")[2] for name in STORE.ls(address.rpartition("/")[0], detail=False))


def test_round_trip_keeps_the_file_before(address):
    io = AtomicCheckpointIO()
    for step in (1, 2, 2, 3):
        io.save_checkpoint(state(step), address)
    assert names(address) == ["last-1.ckpt", "last.ckpt"]
    assert io.load_checkpoint(address)["state_dict"]["w"].unique().item() == 3
    assert io.load_checkpoint(address.replace("last.", "last-1."))["global_step"] == 2


@pytest.mark.parametrize("moment", ["upload", "read back", "move"])
def test_a_failed_upload_keeps_the_previous_file(address, monkeypatch, moment):
    io = AtomicCheckpointIO()
    io.save_checkpoint(state(1), address)

    def fail(*args: object, **options: object) -> None:
        raise ConnectionResetError(104, "Connection reset by peer")

    name = {"upload": "torch.save", "read back": "torch.load", "move": None}[moment]
    monkeypatch.setattr(name, fail) if name else monkeypatch.setattr(MemoryFileSystem, "mv", fail)
    with pytest.raises(OSError, match="Connection reset by peer"):
        io.save_checkpoint(state(2), address)
    monkeypatch.undo()
    assert io.load_checkpoint(address)["global_step"] == 1
    assert not [name for name in names(address) if name.startswith(".")]


def test_a_look_reads_little(address, monkeypatch):
    AtomicCheckpointIO().save_checkpoint(state(5), address)
    read = []
    opened = MemoryFileSystem.open

    def counting(self, *args, **options):
        file = opened(self, *args, **options)
        inner, into = file.read, file.readinto
        file.read = lambda *a: [read.append(len(out := inner(*a))), out][1]
        file.readinto = lambda b: [read.append(n := into(b)), n][1]
        return file

    monkeypatch.setattr(MemoryFileSystem, "open", counting)
    stored = read_checkpoint(address, lazily=True)
    assert stored["global_step"] == 5
    assert stored["state_dict"]["w"].shape == (100_000,)
    assert 0 < sum(read) < 40_000  # of 400 kB


def test_truncated_and_missing_ones(address):
    AtomicCheckpointIO().save_checkpoint(state(1), address)
    STORE.pipe(address, STORE.cat(address)[:-200])
    with pytest.raises(ValueError, match=r"last\.ckpt cannot be read \(truncated"):
        read_checkpoint(address)
    with pytest.raises(FileNotFoundError):
        read_checkpoint(address + ".none")


def test_a_store_without_its_library_is_said_before_the_first_step():
    with pytest.raises((ImportError, ValueError)):
        LastCheckpoint(folder="nosuchstore://bucket/run").setup(None, None, "fit")


def test_a_run_writes_to_a_store_and_goes_on_from_it(fit, tmp_path, load, capsys):
    folder = f"memory://{tmp_path.name}/checkpoints"
    to = ["--callbacks.last_checkpoint.folder", folder, "--test_after_fit", "false"]
    assert fit("--run_dir", "one", "--trainer.max_steps", "13", *to) == 0
    assert fit("--run_dir", "two", "--resume", f"{folder}/last.ckpt", "--trainer.max_steps", "20", *to) == 0
    assert fit("--run_dir", "whole", "--trainer.max_steps", "20") == 0
    remote = read_checkpoint(f"{folder}/last.ckpt")["state_dict"]
    assert all(torch.equal(remote[k], v) for k, v in load("whole/checkpoints/last.ckpt")["state_dict"].items())
    capsys.readouterr()
    assert fit("--resume", f"{folder}/none.ckpt") == 2
    assert "none.ckpt" in capsys.readouterr().err
