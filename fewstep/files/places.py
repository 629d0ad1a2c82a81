"""Where things go: the user's cache folder, and whether a place can be written, asked before the work for it."""

import os
import re
import tempfile
from contextlib import suppress
from pathlib import Path

ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # s3://bucket, as Path has it too; not C:/


def user_cache() -> Path:
    """What can be fetched or computed again is kept here."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "fewstep")


def require_writable(folder: Path, option: str = "--out") -> None:
    """ValueError in one line unless files can be written to `folder`, or to a new one there; nothing is left behind."""
    if ADDRESS.match(str(folder)):
        address = str(folder).replace(":/", "://", 1)  # as it was, before it became a Path
        raise ValueError(f"{option} {address} is an address; name a place on this machine, and copy it from there")
    place = folder.absolute()
    place = next(parent for parent in (place, *place.parents) if os.path.lexists(parent))
    if not place.is_dir():
        what = "a file" if place.is_file() else "no folder"
        what = "a link to nothing" if place.is_symlink() and not place.exists() else what
        raise ValueError(f"{option} {folder}: {place} is {what}; name another folder")
    try:
        # Only a try tells: root may write anywhere, but not in /proc, and a name may be too long.
        with tempfile.TemporaryDirectory(dir=place, prefix=".writable.") as made:
            for part in ("", *folder.absolute().relative_to(place).parts):
                with suppress(FileNotFoundError):
                    os.stat(Path(made, part))
    except OSError as error:
        raise ValueError(
            f"{option} {folder}: nothing can be written there ({error.strerror}); name another folder"
        ) from None
