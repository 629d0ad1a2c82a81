"""What follows when a checkpoint cannot be written: on real file systems where root may mount one."""

import errno

import pytest
import torch

from callbacks import AtomicCheckpointIO
from tests.callbacks.numbered_states import STATE, names, state, step_of
from tests.callbacks.small_disk import make_read_only, tmpfs


def test_a_full_disk_is_noticed_before_anything_is_written(tmp_path, monkeypatch):
    with tmpfs(tmp_path / "disk", 1000) as disk:
        io = AtomicCheckpointIO()
        io.save_checkpoint(state(1), disk / "last.ckpt")
        monkeypatch.setattr(torch, "save", lambda *args: pytest.fail("began to write"))
        with pytest.raises(OSError, match=r"the disk is full \(1 MB free, 2 MB needed\)") as caught:
            io.save_checkpoint(state(2, 500_000), disk / "last.ckpt")
        assert caught.value.errno == errno.ENOSPC
        assert "\n" not in str(caught.value)
        assert names(disk) == ["last.ckpt"]
        assert step_of(disk / "last.ckpt") == 1


def test_a_disk_that_fills_up_during_the_write_keeps_the_previous_file(tmp_path, monkeypatch):
    monkeypatch.setattr("callbacks.checkpoints.atomic_checkpoint.require_space", lambda need, folder: None)
    with tmpfs(tmp_path / "disk", 1000) as disk:
        io = AtomicCheckpointIO()
        io.save_checkpoint(state(1), disk / "last.ckpt")
        with pytest.raises(OSError, match="the disk is full"):
            io.save_checkpoint(state(2, 500_000), disk / "last.ckpt")
        assert names(disk) == ["last.ckpt"]
        assert step_of(disk / "last.ckpt") == 1


def test_a_read_only_file_system_is_named(tmp_path):
    with tmpfs(tmp_path / "disk", 1000) as disk:
        io = AtomicCheckpointIO()
        io.save_checkpoint(state(1), disk / "last.ckpt")
        make_read_only(disk)
        with pytest.raises(OSError, match="disk is read-only; choose another --run_dir") as caught:
            io.save_checkpoint(state(2), disk / "last.ckpt")
        assert caught.value.errno == errno.EROFS
        assert step_of(disk / "last.ckpt") == 1


def test_a_folder_that_cannot_be_made_is_an_error_of_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="was not written") as caught:
        AtomicCheckpointIO().save_checkpoint(STATE, tmp_path / "file" / "deep" / "last.ckpt")
    assert "\n" not in str(caught.value)


def test_warn_goes_on_and_stops_after_failures_in_a_row(tmp_path, capsys):
    (tmp_path / "file").touch()
    io = AtomicCheckpointIO(on_failure="warn", max_failures=3)
    for _ in range(2):
        io.save_checkpoint(STATE, tmp_path / "file" / "a.ckpt")
    io.save_checkpoint(STATE, tmp_path / "a.ckpt")  # another folder, which does not count
    (tmp_path / "file").unlink()
    io.save_checkpoint(STATE, tmp_path / "file" / "a.ckpt")  # a success starts the count anew
    assert not io.failed(tmp_path / "file" / "a.ckpt")
    (tmp_path / "file" / "a.ckpt").unlink()
    (tmp_path / "file").rmdir()
    (tmp_path / "file").touch()
    for _ in range(2):
        io.save_checkpoint(STATE, tmp_path / "file" / "a.ckpt")
    lines = capsys.readouterr().err.splitlines()
    assert [line[line.index("Training") :] for line in lines] == [
        f"Training goes on (failure {n} of 3 in a row)." for n in (1, 2, 1, 2)
    ]
    assert io.failed(tmp_path / "file" / "a.ckpt")
    with pytest.raises(OSError, match="was not written"):
        io.save_checkpoint(STATE, tmp_path / "file" / "a.ckpt")


def test_a_failed_save_costs_no_older_file(tmp_path):
    """ModelCheckpoint deletes the old best once it believes that the new one is there."""
    io = AtomicCheckpointIO(on_failure="warn")
    io.save_checkpoint(state(1), tmp_path / "best-1.ckpt")
    (tmp_path / "best-2.ckpt").mkdir()
    io.save_checkpoint(state(2), tmp_path / "best-2.ckpt")
    io.remove_checkpoint(tmp_path / "best-1.ckpt")
    assert step_of(tmp_path / "best-1.ckpt") == 1
    io.save_checkpoint(state(3), tmp_path / "best-3.ckpt")
    io.remove_checkpoint(tmp_path / "best-1.ckpt")
    assert not (tmp_path / "best-1.ckpt").exists()


def test_bad_policy():
    with pytest.raises(ValueError, match="choose stop or warn"):
        AtomicCheckpointIO(on_failure="ignore")
    with pytest.raises(ValueError, match="at least 1"):
        AtomicCheckpointIO(max_failures=0)
