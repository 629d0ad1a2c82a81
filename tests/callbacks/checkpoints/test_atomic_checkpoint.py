"""AtomicCheckpointIO: whole or absent, never code, clear errors."""

import errno
import os
import resource
import signal
import time

import pytest
import torch

from callbacks import AtomicCheckpointIO
from tests.callbacks.numbered_states import STATE, names, state, step_of


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


def test_the_file_before_last_is_kept_and_no_other(tmp_path):
    io = AtomicCheckpointIO()
    for step in (10, 20, 20, 30):  # twice at 20: after the step and again after the validation
        io.save_checkpoint(state(step), tmp_path / "last.ckpt")
        io.save_checkpoint(state(step), tmp_path / "best.ckpt")
        expected = {10: [10], 20: [10, 20], 30: [20, 30]}[step]
        assert [step_of(p) for p in sorted(tmp_path.glob("last*"))] == expected
    assert names(tmp_path) == ["best.ckpt", "last-1.ckpt", "last.ckpt"]


def test_a_damaged_last_does_not_replace_a_whole_predecessor(tmp_path):
    for step in (10, 20):
        AtomicCheckpointIO().save_checkpoint(state(step), tmp_path / "last.ckpt")
    (tmp_path / "last.ckpt").write_bytes(b"PK damaged")
    AtomicCheckpointIO().save_checkpoint(state(30), tmp_path / "last.ckpt")  # a resumed run: it knows no file
    assert [step_of(tmp_path / f"{name}.ckpt") for name in ("last-1", "last")] == [10, 30]


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
def test_the_predecessor_is_kept_without_hard_links_too(tmp_path, monkeypatch, number):
    def refuse(*args: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    io = AtomicCheckpointIO()
    for step in (10, 20):
        io.save_checkpoint(state(step), tmp_path / "last.ckpt")
    assert [step_of(tmp_path / f"{name}.ckpt") for name in ("last-1", "last")] == [10, 20]


def test_leftovers_of_dead_processes_go_and_those_of_living_ones_stay(tmp_path):
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    (tmp_path / f".last.ckpt.tmp.{child}").write_bytes(b"half")
    (tmp_path / f".last.ckpt.tmp.{os.getppid()}").write_bytes(b"being written")
    (tmp_path / ".notes.tmp.txt").touch()
    AtomicCheckpointIO().save_checkpoint(STATE, tmp_path / "last.ckpt")
    assert names(tmp_path) == sorted([".notes.tmp.txt", f".last.ckpt.tmp.{os.getppid()}", "last.ckpt"])


def test_what_could_not_be_loaded_again_is_refused_and_named(tmp_path):
    io = AtomicCheckpointIO()
    io.save_checkpoint(state(1), tmp_path / "last.ckpt")
    wrong = {**state(2), "callbacks": {"Probe": {"folder": tmp_path}}}
    with pytest.raises(ValueError, match=r"callbacks\.Probe\.folder \(pathlib\.PosixPath\) is no plain value"):
        io.save_checkpoint(wrong, tmp_path / "last.ckpt")
    assert names(tmp_path) == ["last.ckpt"]
    assert step_of(tmp_path / "last.ckpt") == 1


def test_a_file_that_reads_back_wrong_is_not_used(tmp_path, monkeypatch):
    """A disk that loses a bit on the way: the write itself reports success."""
    io = AtomicCheckpointIO()
    io.save_checkpoint(state(1), tmp_path / "last.ckpt")
    save = torch.save

    def lossy(content: object, file) -> None:
        save(content, file)
        file.flush()
        os.pwrite(file.fileno(), b"\xff", 3000)

    monkeypatch.setattr(torch, "save", lossy)
    with pytest.raises(OSError, match=r"the checksum of its member \S+data/0 is wrong"):
        io.save_checkpoint(state(2), tmp_path / "last.ckpt")
    assert step_of(tmp_path / "last.ckpt") == 1


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
        for file in tmp_path.glob("*.ckpt"):  # last-1.ckpt too
            values = AtomicCheckpointIO().load_checkpoint(file)["state_dict"]["w"].unique()
            assert len(values) == 1
            assert values.item() in range(trial + 2)
