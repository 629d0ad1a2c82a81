"""Shard folders on other machines: which addresses are allowed, and a local copy of one file.

Copies are kept under a folder named by their content hash, so that a changed file at the same address is fetched again.
"""

import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urljoin

from fewstep.files.durable import replacing
from fewstep.files.remote_reading import NotThereError, parts, read_bytes, with_retries

__all__ = ["NotThereError", "is_remote", "list_tars", "local_copy", "local_file", "read_bytes"]

from fewstep.files.local_paths import local_path
from fewstep.files.places import user_cache

SCHEMES = ("file", "s3", "gs", "http", "https", "hf")
MOST_BYTES = 1 << 38  # of a file whose size no index tells


def is_remote(path: str) -> bool:
    """True for an address such as `s3://bucket/folder`, False for a local path; ValueError for any other scheme.

    Without `://` it is a local path if its first part is there, such as `exp:1`.
    """
    if "://" not in path and os.path.lexists(path.partition("/")[0] or "/"):
        return False
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):", path)
    if found is None and "::" not in path:
        return False
    if found is None or found[1] not in SCHEMES or "::" in path:
        raise ValueError(f"refusing {path!r}: use a local folder or one of {', '.join(s + '://' for s in SCHEMES)}")
    return True


def list_tars(url: str) -> list[str]:
    """Addresses of the .tar files in a remote folder, sorted; ValueError if the server cannot list."""
    if url.startswith(("http://", "https://")):
        return linked_tars(url)
    import fsspec

    def found() -> list[str]:
        system, path = fsspec.url_to_fs(url.rstrip("/"))
        return [system.unstrip_protocol(name) for name in system.ls(path, detail=False) if name.endswith(".tar")]

    return sorted(with_retries(found, f"cannot list {url}", url))


def linked_tars(url: str) -> list[str]:
    """Addresses of the .tar files directly in this folder to which its page links, sorted."""
    folder = f"{url.rstrip('/')}/"
    page = Links()
    page.feed(read_bytes(folder).decode("utf-8", "replace"))
    found = {urljoin(folder, link) for link in page.links}
    inside = {link for link in found if link.startswith(folder) and "/" not in link.removeprefix(folder)}
    return sorted(link for link in inside if link.endswith(".tar"))


class Links(HTMLParser):
    """The targets of the links of a page, in `links`."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value for name, value in attrs if tag == "a" and name == "href" and value]


def local_copy(url: str, sha256: str, cache_dir: str | None = None, size: int = MOST_BYTES) -> Path:
    """Path of a local copy of `url` whose content has this hash; downloaded once, checked once.

    size: bytes that it has at most, such as those that index.json tells; no more are fetched.
    """
    target = cache_folder(cache_dir) / "shards" / sha256
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as partial:
        download(url, partial, size)
        if (found := file_sha256(partial)) != sha256:
            raise ValueError(
                f"{url}: sha256 {found[:12]}..., index.json says {sha256[:12]}...; rebuild or upload it again"
            )
    return target


@contextmanager
def local_file(location: str, size: int = MOST_BYTES, beat: Callable[[], None] = lambda: None) -> Iterator[str]:
    """A path that can be read for as long as the context lasts: the local file itself, or a temporary copy.

    size: bytes that a remote file has at most; beat: called with every part of it that comes. OSError in one line if
    it cannot be fetched.
    """
    if not is_remote(location):
        yield location
        return
    with tempfile.TemporaryDirectory(prefix="fewstep-") as folder:
        copy = Path(folder, "shard.tar")
        try:
            download(location, copy, size, beat)
        except ValueError as error:
            raise OSError(str(error)) from error
        yield str(copy)


def download(url: str, path: Path, most_bytes: int = MOST_BYTES, beat: Callable[[], None] = lambda: None) -> None:
    """Copy a remote file to `path`; ValueError in one line when it cannot be read, or is longer."""

    def copy() -> None:
        with path.open("wb") as sink:
            for part in parts(url, most_bytes):
                sink.write(part)
                beat()
            sink.flush()
            os.fsync(sink.fileno())

    with_retries(copy, f"cannot fetch {url}", url)


def cache_folder(cache_dir: str | None = None) -> Path:
    """Where copies and indexes are kept: `cache_dir`, or fewstep in the user's cache folder."""
    return Path(local_path(cache_dir)) if cache_dir else user_cache()


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
