"""Bytes from other machines, bounded in size, in time and in tries.

Addresses go through fsspec, never through a shell. Its HTTP asks for the size first, and takes a server that is busy
for a file that is missing; so here its session is asked for the content alone, and the status is what it is. A fault
that may pass (a broken connection, a server that is busy) is tried again, TRIES times in all, after waits that double
or that the server asks for; one that will stay (no such file, no permission) is not.
"""

import email.utils
import errno
import http
import os
import random
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from fewstep.one_line import one_line

TRIES, FIRST_WAIT = 5, 0.5  # seconds; 0.5 + 1 + 2 + 4, each up to a quarter longer or shorter
LONGEST_WAIT = 60.0  # seconds, of those that a server asks for
PATIENCE = 60.0  # seconds in which an answer must begin, and in which the next part of it must come
LEAST_RATE = 1 << 10  # bytes per second, on average, once PATIENCE is over
MOST_BYTES = 1 << 26  # of a small file
MOST_REDIRECTS = 10
PART = 1 << 20
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
MISSING_STATUS = (404, 410)
WHOLE_STATUS = (200, 203)  # 203: by way of a proxy that may have changed it; hashes tell
Result = TypeVar("Result")


class NotThereError(ValueError):
    """There is no file at this address."""


class StatusError(Exception):
    """A server answered with something else than the file; `wait`: seconds after which it wants to be asked again."""

    def __init__(self, status: int, wait: float = 0.0):
        phrase = http.HTTPStatus(status).phrase if status in set(http.HTTPStatus) else "an unknown status"
        super().__init__(f"{status} {phrase}")
        self.status, self.wait = status, wait


class TooLongError(ValueError):
    """More bytes come than the file may have."""


class TooSlowError(Exception):
    """Nothing comes, or hardly anything."""


def read_bytes(url: str, most_bytes: int = MOST_BYTES) -> bytes:
    """The content of a small remote file, never cached; ValueError in one line, NotThereError if there is none."""
    return with_retries(lambda: b"".join(parts(url, most_bytes)), f"cannot read {url}", url)


def parts(url: str, most_bytes: int) -> Iterator[bytes]:
    """The content of a remote file in parts of at most PART bytes.

    TooLongError after `most_bytes`, TooSlowError, StatusError, and whatever a back end of fsspec raises.
    """
    began, size = time.monotonic(), 0
    for part in _over_http(url) if url.startswith(("http://", "https://")) else _over_fsspec(url):
        size += len(part)
        if size > most_bytes:
            raise TooLongError(f"longer than {most_bytes} bytes")
        seconds = time.monotonic() - began
        if seconds > PATIENCE and size < LEAST_RATE * seconds:
            raise TooSlowError(f"only {size} bytes came in {seconds:.0f} seconds")
        yield part


def with_retries(action: Callable[[], Result], failed: str, url: str) -> Result:
    """The result of `action`; after its last failure a ValueError in one line that begins with `failed`."""
    jitter = random.Random(f"{url} {os.getpid()}")  # processes that failed together do not come back together
    for attempt in range(TRIES):
        try:
            return action()
        except Exception as error:  # every back end raises its own kind
            if lasts(error) or attempt == TRIES - 1:
                kind = NotThereError if missing(error) else ValueError
                tries = f" (tried {attempt + 1} times)" if attempt else ""
                raise kind(f"{failed}: {told(error)}{tries}") from error
            asked = getattr(error, "wait", 0.0)
        time.sleep(max(FIRST_WAIT * 2**attempt * jitter.uniform(0.75, 1.25), min(asked, LONGEST_WAIT)))
    raise AssertionError("unreachable")


def lasts(error: Exception) -> bool:
    """True if trying again cannot help; what is not known to last is taken to pass."""
    codes = (getattr(error, name, None) for name in ("status", "status_code", "code"))
    if status := next((code for code in codes if isinstance(code, int)), None):
        return status < 500 and status not in PASSING_STATUS
    return isinstance(error, LASTING) or getattr(error, "errno", None) in LASTING_ERRNO


def missing(error: Exception) -> bool:
    """True if the fault is that there is no such file."""
    return isinstance(error, FileNotFoundError) or getattr(error, "status", None) in MISSING_STATUS


def told(error: Exception) -> str:
    """One line; with the kind of the error unless it is one of this file."""
    own = isinstance(error, StatusError | TooLongError | TooSlowError)
    return one_line(str(error) if own else f"{type(error).__name__}: {error}", 400)


def _over_fsspec(url: str) -> Iterator[bytes]:
    import fsspec

    with fsspec.open(url, "rb") as file:
        while part := file.read(PART):
            yield part


def _over_http(url: str) -> Iterator[bytes]:
    import aiohttp
    import fsspec
    from fsspec.asyn import sync

    system = fsspec.filesystem("http")

    async def begun() -> Any:
        session = await system.set_session()
        limits = aiohttp.ClientTimeout(total=None)  # its own is for whole files, however large they are
        plain = {"Accept-Encoding": "identity"}
        return await session.get(system.encode_url(url), headers=plain, timeout=limits, max_redirects=MOST_REDIRECTS)

    try:
        answer = sync(system.loop, begun, timeout=PATIENCE)
    except aiohttp.TooManyRedirects:
        raise ValueError(f"more than {MOST_REDIRECTS} redirects") from None
    except aiohttp.RedirectClientError:
        raise ValueError("redirected to what is no http address") from None
    except TimeoutError:
        raise TooSlowError(f"no answer within {PATIENCE:g} seconds") from None
    try:
        if answer.status not in WHOLE_STATUS:
            raise StatusError(answer.status, _asked_wait(answer.headers.get("Retry-After", "")))
        while part := sync(system.loop, answer.content.read, PART, timeout=PATIENCE):
            yield part
    except TimeoutError:
        raise TooSlowError(f"nothing came for {PATIENCE:g} seconds") from None
    finally:
        system.loop.call_soon_threadsafe(answer.close)


def _asked_wait(text: str) -> float:
    """Seconds from a Retry-After header: a number of them, or a date."""
    if text.strip().isdecimal():
        return float(text.strip()[:9])
    try:
        return email.utils.parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
        return 0.0
