"""Checkpoint files that are either whole or absent."""

import errno
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint beside its target, check it, then rename it over the target.

    A run killed at any moment leaves the previous checkpoint or the new one, never a part of one. Nothing passes
    through TMPDIR and the file is streamed, not built in memory. Loading is always `weights_only=True`, so a checkpoint
    cannot run code. Paths with a scheme (s3://, gs://) are written by Lightning's own plugin.
    Errors: OSError with one line when the disk is full or the folder not writable; ValueError for an unreadable file.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        partial = target.with_name(f".{target.name}.tmp.{os.getpid()}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _write(checkpoint, partial)
            os.replace(partial, target)
            _sync_folder(target.parent)
        except (OSError, RuntimeError) as error:  # torch's zip writer reports a full disk as RuntimeError
            raise OSError(*_explain(error, target)) from error
        finally:
            partial.unlink(missing_ok=True)

    def load_checkpoint(
        self, path: str | Path, map_location: Callable | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """The checkpoint as plain tensors and Python values; `weights_only` is ignored, it is always True."""
        if "://" in str(path):
            return super().load_checkpoint(path, map_location, weights_only=True)
        return read_checkpoint(path, map_location)


def read_checkpoint(path: str | Path, map_location: Any = None, lazily: bool = False) -> dict[str, Any]:
    """A local Lightning checkpoint as plain tensors and Python values, never code.

    lazily: map the file instead of reading it, for a look at small parts of a large one.
    Errors: FileNotFoundError; ValueError for a truncated file or one of another kind.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"checkpoint {path} does not exist")
    try:
        checkpoint = torch.load(path, map_location=map_location or "cpu", weights_only=True, mmap=lazily)
    except Exception as error:  # torch raises many kinds; all mean that this file is of no use
        reason = " ".join(str(error).split())[:160]
        raise ValueError(f"checkpoint {path} cannot be read (truncated or not a checkpoint): {reason}") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise ValueError(f"{path} is not a Lightning checkpoint: it has no state_dict")
    return checkpoint


def _write(checkpoint: dict[str, Any], partial: Path) -> None:
    with open(partial, "wb") as file:
        torch.save(checkpoint, file)
        file.flush()
        os.fsync(file.fileno())
    if not zipfile.is_zipfile(partial):  # the central directory is the last thing written
        raise OSError(errno.EIO, "the file could not be read back")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _explain(error: OSError | RuntimeError, target: Path) -> tuple[int, str]:
    """Error number and one line that says what happened and what to do."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__context__
    number = cause.errno if isinstance(cause, OSError) and cause.errno else errno.EIO
    free = shutil.disk_usage(target.parent).free / 1e6 if target.parent.exists() else 0.0
    remedy = {
        errno.ENOSPC: f"the disk is full ({free:.0f} MB free); free some space or choose another --run_dir",
        errno.EACCES: f"no permission to write in {target.parent}; choose another --run_dir",
        errno.EROFS: f"{target.parent} is read-only; choose another --run_dir",
    }.get(number, " ".join(str(error).split())[:160])
    return number, f"checkpoint {target} was not written: {remedy}. The previous file, if any, is intact."
