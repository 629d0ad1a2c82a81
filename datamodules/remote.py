"""Shard folders on other machines: which addresses are allowed, and a local copy of one file.

Copies come through fsspec, never through a shell, and are kept under a folder named by their content hash, so that a
changed file at the same address is fetched again. A fault that may pass (a broken connection, a server that is busy) is
tried again, TRIES times in all, after waits that double; one that will stay (no such file, no permission) is not.
"""

import errno
import hashlib
import os
import random
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

SCHEMES = ("file", "s3", "gs", "http", "https", "hf")
TRIES, FIRST_WAIT = 5, 0.5  # seconds; 0.5 + 1 + 2 + 4, each up to a quarter longer or shorter
LASTING = (
    FileNotFoundError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
    ImportError,
    ValueError,
    TypeError,
)
LASTING_ERRNO = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
PASSING_STATUS = (408, 425, 429)  # and 5xx
Result = TypeVar("Result")


class NotThereError(ValueError):
    """There is no file at this address."""


def is_remote(path: str) -> bool:
    """True for an address such as `s3://bucket/folder`, False for a local path; ValueError for any other scheme."""
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):", path)
    if found is None and "::" not in path:
        return False
    if found is None or found[1] not in SCHEMES or "::" in path:
        raise ValueError(f"refusing {path!r}: use a local folder or one of {', '.join(s + '://' for s in SCHEMES)}")
    return True


def read_bytes(url: str) -> bytes:
    """The content of a small remote file, never cached; ValueError in one line, NotThereError if there is none."""
    import fsspec

    def read() -> bytes:
        with fsspec.open(url, "rb") as file:
            return file.read()

    return with_retries(read, f"cannot read {url}", url)


def list_tars(url: str) -> list[str]:
    """Addresses of the .tar files in a remote folder, sorted; ValueError if the server cannot list."""
    import fsspec

    def found() -> list[str]:
        system, path = fsspec.url_to_fs(url.rstrip("/"))
        return [system.unstrip_protocol(name) for name in system.ls(path, detail=False) if name.endswith(".tar")]

    return sorted(with_retries(found, f"cannot list {url}", url))


def local_copy(url: str, sha256: str, cache_dir: str | None = None) -> Path:
    """Path of a local copy of `url` whose content has this hash; downloaded once, checked once."""
    target = cache_folder(cache_dir) / "shards" / sha256
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{sha256}.tmp.{os.getpid()}")
    try:
        download(url, partial)
        if (found := file_sha256(partial)) != sha256:
            raise ValueError(
                f"{url}: sha256 {found[:12]}..., index.json says {sha256[:12]}...; rebuild or upload it again"
            )
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return target


@contextmanager
def local_file(location: str) -> Iterator[str]:
    """A path that can be read for as long as the context lasts: the local file itself, or a temporary copy.

    OSError in one line if a remote file cannot be fetched.
    """
    if not is_remote(location):
        yield location
        return
    with tempfile.TemporaryDirectory(prefix="fewstep-") as folder:
        copy = Path(folder, "shard.tar")
        try:
            download(location, copy)
        except ValueError as error:
            raise OSError(str(error)) from error
        yield str(copy)


def download(url: str, path: Path) -> None:
    """Copy a remote file to `path`; ValueError in one line when it cannot be read."""
    import fsspec

    def copy() -> None:
        with fsspec.open(url, "rb") as source, path.open("wb") as sink:
            while chunk := source.read(1 << 20):
                sink.write(chunk)
            sink.flush()
            os.fsync(sink.fileno())

    with_retries(copy, f"cannot fetch {url}", url)


def cache_folder(cache_dir: str | None = None) -> Path:
    """Where copies and indexes are kept: `cache_dir`, or fewstep in the user's cache folder."""
    return Path(cache_dir) if cache_dir else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "fewstep")


def with_retries(action: Callable[[], Result], failed: str, url: str) -> Result:
    """The result of `action`; after its last failure a ValueError in one line that begins with `failed`."""
    jitter = random.Random(f"{url} {os.getpid()}")  # processes that failed together do not come back together
    for attempt in range(TRIES):
        try:
            return action()
        except Exception as error:  # every back end raises its own kind
            if lasts(error) or attempt == TRIES - 1:
                kind = NotThereError if isinstance(error, FileNotFoundError) else ValueError
                tries = f" (tried {attempt + 1} times)" if attempt else ""
                raise kind(f"{failed}: {type(error).__name__}: {error}".splitlines()[0] + tries) from error
        time.sleep(FIRST_WAIT * 2**attempt * jitter.uniform(0.75, 1.25))
    raise AssertionError("unreachable")


def lasts(error: Exception) -> bool:
    """True if trying again cannot help; what is not known to last is taken to pass."""
    codes = (getattr(error, name, None) for name in ("status", "status_code", "code"))
    if status := next((code for code in codes if isinstance(code, int)), None):
        return status < 500 and status not in PASSING_STATUS
    return isinstance(error, LASTING) or getattr(error, "errno", None) in LASTING_ERRNO


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
