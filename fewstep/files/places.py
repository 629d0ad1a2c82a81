"""Whether a folder can be written, asked before the work whose result goes there."""

import os
import re
from pathlib import Path

ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # s3://bucket, as Path has it too; not C:/


def require_local_folder(target: Path, option: str = "--out") -> None:
    """ValueError in one line for an address, a link, a file, and a place where no folder can be made."""
    if ADDRESS.match(str(target)):
        raise ValueError(f"{option} {target} is an address; write to a folder here and copy it there")
    if target.is_symlink():
        raise ValueError(f"{option} {target} is a link to {os.readlink(target)}; name that folder itself")
    if target.exists() and not target.is_dir():
        raise ValueError(f"{option} {target} is a file; name another folder")
    place = target.absolute()
    place = next(parent for parent in (place, *place.parents) if os.path.lexists(parent))
    if not place.is_dir():
        raise ValueError(f"{option} {target}: {place} is no folder")
    if not os.access(place, os.W_OK | os.X_OK) or place.is_relative_to("/proc") or place.is_relative_to("/sys"):
        raise ValueError(f"{option} {target}: nothing can be written in {place}; name another folder")
