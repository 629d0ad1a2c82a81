"""What surrounds the write of a checkpoint: free space, leftovers of killed writes, the predecessor that is kept."""

import errno
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

RESERVE = 1.05  # times the tensors: names, optimizer options and loop state


def size_of(state: Any) -> int:
    """Bytes that torch.save writes for the tensors in nested dicts, lists and tuples: each storage once, as a whole.

    A sharded tensor counts in full, because it is gathered before it is written.
    """
    tensors = [t for t in _tensors(state) if t.layout is torch.strided and t.device.type != "meta"]
    sharded = sum(t.numel() * t.element_size() for t in tensors if isinstance(t, DTensor))
    storages = (t.untyped_storage() for t in tensors if not isinstance(t, DTensor))
    return sharded + sum({(s.device, s.data_ptr()): s.nbytes() for s in storages}.values())


def _tensors(state: Any) -> Iterator[Tensor]:
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, Mapping):
        for value in state.values():
            yield from _tensors(value)
    elif isinstance(state, list | tuple):
        for value in state:
            yield from _tensors(value)


def free_space(folder: str | Path) -> int:
    """Bytes that this user may still write in a folder, which need not exist yet."""
    place = Path(folder).absolute()
    return shutil.disk_usage(next(p for p in (place, *place.parents) if p.exists())).free


def require_space(need: int, folder: Path) -> None:
    """OSError ENOSPC if the disk of `folder` has less than `need` bytes and a reserve."""
    if free_space(folder) < RESERVE * need:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def partial_path(target: Path) -> Path:
    """Where this process writes before the rename: hidden, beside the target, on the same file system."""
    return target.with_name(f".{target.name}.tmp.{os.getpid()}")


def remove_leftovers(folder: Path) -> None:
    """Delete what killed processes left half-written: .NAME.tmp.PID whose process is gone."""
    for file in folder.glob(".*.tmp.*"):
        found = re.search(r"\.tmp\.(\d+)$", file.name)
        if found and not _alive(int(found[1])):
            with suppress(OSError):
                file.unlink()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return pid != os.getpid()  # a leftover of an earlier process that had this number, in a container for example


def previous_of(target: Path) -> Path:
    """last-1.ckpt for last.ckpt."""
    return target.with_name(f"{target.stem}-1{target.suffix}")


def keep_previous(target: Path) -> None:
    """Let the file at `target` stand at `previous_of(target)` as well; `target` itself never disappears.

    Where the file system has no hard links it is renamed, and for a moment only the previous name exists.
    """
    link = partial_path(previous_of(target))
    try:
        os.link(target, link)
    except FileNotFoundError:
        return
    except OSError:
        os.replace(target, previous_of(target))
        return
    os.replace(link, previous_of(target))
    link.unlink(missing_ok=True)  # renaming one name of a file to another of the same file leaves both
