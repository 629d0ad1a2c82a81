"""Shard folders on other machines: which addresses are allowed, and a local copy of one file.

Copies come through fsspec, never through a shell, and are kept under a folder named by their content hash,
so that a changed file at the same address is fetched again.
"""

import hashlib
import os
import re
from pathlib import Path

SCHEMES = ("file", "s3", "gs", "http", "https", "hf")


def is_remote(path: str) -> bool:
    """True for an address such as `s3://bucket/folder`, False for a local path; ValueError for any other scheme."""
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):", path)
    if found is None and "::" not in path:
        return False
    if found is None or found[1] not in SCHEMES or "::" in path:
        raise ValueError(f"refusing {path!r}: use a local folder or one of {', '.join(s + '://' for s in SCHEMES)}")
    return True


def read_bytes(url: str) -> bytes:
    """The content of a small remote file, never cached."""
    import fsspec

    try:
        with fsspec.open(url, "rb") as file:
            return file.read()
    except Exception as error:  # every back end raises its own kind
        raise ValueError(f"cannot read {url}: {type(error).__name__}: {error}".splitlines()[0]) from error


def local_copy(url: str, sha256: str) -> Path:
    """Path of a local copy of `url` whose content has this hash; downloaded once, checked once."""
    import fsspec

    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    target = Path(home, "fewstep", "shards", sha256)
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{sha256}.tmp.{os.getpid()}")
    try:
        with fsspec.open(url, "rb") as source, partial.open("wb") as sink:
            while chunk := source.read(1 << 20):
                sink.write(chunk)
    except Exception as error:
        partial.unlink(missing_ok=True)
        raise ValueError(f"cannot fetch {url}: {type(error).__name__}: {error}".splitlines()[0]) from error
    if (found := file_sha256(partial)) != sha256:
        partial.unlink()
        raise ValueError(f"{url}: sha256 {found[:12]}..., index.json says {sha256[:12]}...; rebuild or upload it again")
    os.replace(partial, target)
    return target


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
