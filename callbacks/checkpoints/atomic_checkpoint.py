"""Checkpoint files that are either whole or absent."""

import errno
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from callbacks.checkpoints.folder import (
    free_space,
    keep_previous,
    partial_path,
    remove_leftovers,
    require_space,
    size_of,
)
from callbacks.checkpoints.plain_values import first_object, with_plain_hparams
from callbacks.checkpoints.reading import check_members, read_checkpoint, reason
from callbacks.checkpoints.remote import is_remote, remove_remote, save_remote
from fewstep.files.durable import sync_folder


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint beside its target, check it, then rename it over the target.

    A run killed at any moment leaves the previous checkpoint or the new one, never a part of one. Nothing passes
    through TMPDIR and the file is streamed, not built in memory. It is flushed to the disk, the checksum of every
    member is compared and its values are loaded once before the rename. Loading is always `weights_only=True`, so a
    checkpoint cannot run code. Addresses (s3://, gs://) get the same as far as a store allows: remote.py.

    on_failure: what follows when a file cannot be written (disk full, folder read-only, a value that could not be
        loaded again). "stop" raises, "warn" says so in one line and lets training go on.
    max_failures: "warn" raises nevertheless after this many failures in a row in one folder.
    keep_previous: names of files whose predecessor stays, as last-1.ckpt for last.ckpt.
    Errors: OSError or ValueError with one line, on the writing process only; the files of before are intact.
    """

    def __init__(
        self,
        on_failure: Literal["stop", "warn"] = "stop",
        max_failures: int = 3,
        keep_previous: Sequence[str] = ("last.ckpt",),
    ) -> None:
        super().__init__()
        if on_failure not in ("stop", "warn") or max_failures < 1:
            raise ValueError(
                f"checkpoint on_failure is {on_failure!r} and max_failures {max_failures}; "
                "choose stop or warn, and at least 1"
            )
        self.on_failure, self.max_failures, self.keep_previous = on_failure, max_failures, tuple(keep_previous)
        self._failures: dict[str, int] = {}  # folder -> in a row
        self._steps: dict[str, int | None] = {}  # of the files that this process has written, hence knows to be whole

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        try:
            content = with_plain_hparams(checkpoint) | {"saved_at": time.time_ns()}  # of files that were copied, too
            self._save(content, path)
        except Exception as error:  # whatever torch, pickle or the disk raise
            count = self._failures[_folder(path)] = self._failures.get(_folder(path), 0) + 1
            problem = _explain(error, checkpoint, path)
            if self.on_failure == "stop" or count >= self.max_failures:
                problem.line = problem.args[-1]  # all that the user need be told
                raise problem from error
            said = f"Training goes on (failure {count} of {self.max_failures} in a row)."
            print(f"warning: {problem.args[-1]} {said}", file=sys.stderr, flush=True)
        else:
            self._failures[_folder(path)] = 0
            self._steps[str(path)] = checkpoint.get("global_step")

    def _save(self, checkpoint: dict[str, Any], path: str | Path) -> None:
        rotates = str(path).rpartition("/")[2] in self.keep_previous and self._another_state(checkpoint, path)
        if is_remote(path):
            save_remote(checkpoint, str(path), rotates)
            return
        target, partial = Path(path), partial_path(Path(path))
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(target.parent)
            require_space(size_of(checkpoint), target.parent)
            _write(checkpoint, partial)
            if rotates and (str(path) in self._steps or _is_whole(target)):  # a damaged one must not replace a whole
                keep_previous(target)
            os.replace(partial, target)
            sync_folder(target.parent)
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)

    def _another_state(self, checkpoint: dict[str, Any], path: str | Path) -> bool:
        """False for a second write at one step, after a validation for example: the file before that one stays."""
        step = checkpoint.get("global_step")
        return step is None or self._steps.get(str(path)) != step

    def load_checkpoint(
        self, path: str | Path, map_location: Callable | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """The checkpoint as plain tensors and Python values; `weights_only` is ignored, it is always True."""
        return read_checkpoint(path, map_location)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete a checkpoint, unless the one that was to replace it could not be written.

        The name may come from a checkpoint that was resumed from. Nothing but a file called .ckpt is ever deleted, or a
        folder of that name that torch.distributed.checkpoint has written.
        """
        if self.failed(path):
            return
        if not str(path).endswith(".ckpt") or (os.path.isdir(path) and not os.path.isfile(Path(path, ".metadata"))):
            print(f"warning: {path} is no checkpoint and was not deleted", file=sys.stderr, flush=True)
        elif is_remote(path):
            remove_remote(str(path))
        elif os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            Path(path).unlink(missing_ok=True)

    def failed(self, path: str | Path) -> bool:
        """Whether this process's newest write to the folder of `path` failed; only the writing rank knows."""
        return self._failures.get(_folder(path), 0) > 0


def _folder(path: str | Path) -> str:
    return str(path).rpartition("/")[0] or "."


def _write(checkpoint: dict[str, Any], partial: Path) -> None:
    with open(partial, "wb") as file:
        torch.save(checkpoint, file)
        file.flush()
        with ThreadPoolExecutor(1) as pool:  # the disk writes while the processor reads back
            synced = pool.submit(os.fsync, file.fileno())
            check_members(partial)
            torch.load(partial, map_location="cpu", weights_only=True, mmap=True)
        synced.result()


def _is_whole(path: Path) -> bool:
    try:
        check_members(path)
    except Exception:  # zip errors of many kinds; missing; unreadable
        return False
    return True


def _explain(error: Exception, checkpoint: dict[str, Any], path: str | Path) -> Exception:
    """The error to raise: one line that says what happened and what to do."""
    cause: BaseException | None = error
    while cause is not None and not (isinstance(cause, OSError) and cause.errno):
        cause = cause.__context__  # torch's zip writer reports a full disk as RuntimeError
    number = cause.errno if isinstance(cause, OSError) and cause.errno else errno.EIO
    kept = "The previous file, if any, is intact."
    folder = _folder(path)
    if number == errno.ENOSPC:
        needed = f"{size_of(checkpoint) / 1e6:.0f} MB needed"
        free = "" if is_remote(path) else f"{free_space(folder) / 1e6:.0f} MB free, "
        remedy = f"the disk is full ({free}{needed}); free some space or choose another --run_dir"
    elif number == errno.EDQUOT:
        remedy = f"the disk quota of {folder} is used up; free some space or choose another --run_dir"
    elif number in (errno.EACCES, errno.EPERM):
        remedy = f"no permission to write in {folder}; choose another --run_dir"
    elif number == errno.EROFS:
        remedy = f"{folder} is read-only; choose another --run_dir"
    else:
        remedy = reason(error)
        if cause is None and (found := first_object(checkpoint)):
            return ValueError(f"checkpoint {path} was not written: {found} is no plain value. {kept}")
    return OSError(number, f"checkpoint {path} was not written: {remedy}. {kept}")
