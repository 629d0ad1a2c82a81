"""Files that survive a power cut, and are whole or absent."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_synced(path: Path, content: bytes) -> None:
    """Write a file and wait until it is on the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Another name to write to; what stands there at the end takes the place of `path`, unless something was raised.

    A reader sees the old file or the new one, never a part. It survives a power cut only as far as the writer syncs.
    """
    partial = path.with_name(f".{path.name}.tmp.{os.getpid()}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Another folder to write to, which takes the place of `path` at the end, unless something was raised.

    Files of `path` that the new folder lacks are taken along. Killed between its two renamings, `path` is absent and
    both folders lie whole beside it; at any other time it is the old folder or the new one, never a part.
    """
    target = path.resolve() if path.is_symlink() else path
    partial, old = (target.with_name(f".{target.name}.tmp.{os.getpid()}{end}") for end in ("", ".old"))
    shutil.rmtree(partial, ignore_errors=True)
    try:
        yield partial
        for file in partial.rglob("*"):
            if file.is_file():
                _sync(file)
        if target.is_dir():
            for file in target.rglob("*"):
                if not file.is_dir() and not os.path.lexists(kept := partial / file.relative_to(target)):
                    kept.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(file, kept, follow_symlinks=False)
            target.rename(old)
        try:
            partial.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise
        sync_folder(target.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def replace_file(path: Path, content: bytes) -> None:
    """Put content in the place of a file, whole and durably."""
    with replacing(path) as partial:
        write_synced(partial, content)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut."""
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
