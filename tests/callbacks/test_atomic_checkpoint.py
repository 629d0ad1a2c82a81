"""AtomicCheckpointIO: whole or absent, never code, clear errors."""

import errno
import os
import resource
import signal
import time

import pytest
import torch

from callbacks import AtomicCheckpointIO

STATE = {"state_dict": {"w": torch.arange(1000.0)}, "global_step": 3}


def test_round_trip_leaves_exactly_one_file(tmp_path):
    AtomicCheckpointIO().save_checkpoint(STATE, tmp_path / "deep" / "a.ckpt")
    loaded = AtomicCheckpointIO().load_checkpoint(tmp_path / "deep" / "a.ckpt")
    assert torch.equal(loaded["state_dict"]["w"], STATE["state_dict"]["w"])
    assert loaded["global_step"] == 3
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a.ckpt"]


def test_nothing_passes_through_tmpdir(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    AtomicCheckpointIO().save_checkpoint(STATE, tmp_path / "a.ckpt")
    assert (tmp_path / "a.ckpt").stat().st_size > 4000


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_one_line(tmp_path, fraction):
    path = tmp_path / "a.ckpt"
    AtomicCheckpointIO().save_checkpoint(STATE, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(fraction * len(content))])
    with pytest.raises(ValueError, match=r"a\.ckpt cannot be read \(truncated") as caught:
        AtomicCheckpointIO().load_checkpoint(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_a_failed_write_keeps_the_previous_file_and_says_why(tmp_path, monkeypatch, number):
    path = tmp_path / "a.ckpt"
    AtomicCheckpointIO().save_checkpoint(STATE, path)
    before = path.read_bytes()

    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    expected = {errno.ENOSPC: "disk is full", errno.EACCES: "no permission"}[number]
    with pytest.raises(OSError, match=expected) as caught:
        AtomicCheckpointIO().save_checkpoint({"state_dict": {}}, path)
    assert caught.value.errno == number
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.ckpt"]


def test_a_really_full_disk_is_recognised(tmp_path):
    """In a forked child RLIMIT_FSIZE makes the kernel refuse the write in the middle of torch's zip writer."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            AtomicCheckpointIO().save_checkpoint({"state_dict": {"w": torch.zeros(100_000)}}, tmp_path / "big.ckpt")
        except OSError as error:
            os.write(writer, str(error).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    assert b"big.ckpt was not written" in os.read(reader, 1000)
    os.close(reader)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_cannot_run_code(tmp_path):
    canary = tmp_path / "canary"

    class Evil:
        def __reduce__(self) -> tuple:
            return os.system, (f"touch {canary}",)

    torch.save({"state_dict": {}, "evil": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(ValueError, match="cannot be read"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "evil.ckpt", weights_only=False)
    assert not canary.exists()


def test_other_files_are_refused(tmp_path):
    torch.save({"weights": torch.zeros(2)}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="no state_dict"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "a.pt")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "b.pt")


def test_killed_while_saving_there_is_always_a_whole_checkpoint(tmp_path):
    """A forked child saves over one file again and again and is killed at eight moments."""
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"state_dict": {"w": torch.zeros(50_000)}}, path)
    for trial in range(8):
        child = os.fork()
        if child == 0:
            while True:
                AtomicCheckpointIO().save_checkpoint({"state_dict": {"w": torch.full((50_000,), 1.0 + trial)}}, path)
        time.sleep(0.02 + 0.007 * trial)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        values = AtomicCheckpointIO().load_checkpoint(path)["state_dict"]["w"].unique()
        assert len(values) == 1
        assert values.item() in range(trial + 2)
