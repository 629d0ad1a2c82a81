"""Remote files: which faults are tried again, and that only the right bytes are kept."""

import errno
import functools
import hashlib
import http.server
import io
import threading
from pathlib import Path

import fsspec
import pytest

from datamodules import remote
from datamodules.remote import NotThereError, local_copy, local_file, read_bytes


@pytest.fixture
def waits(monkeypatch):
    """The seconds that would have been waited."""
    waits = []
    monkeypatch.setattr(remote.time, "sleep", waits.append)
    return waits


@pytest.fixture
def failing(monkeypatch):
    """fail(error, times, content): fsspec.open raises `error` so often, then gives the content."""
    calls = []

    def fail(error, times, content=b"content"):
        def opened(url, mode):
            calls.append(url)
            if len(calls) <= times:
                raise error
            return io.BytesIO(content)

        monkeypatch.setattr(fsspec, "open", opened)
        return calls

    return fail


class ServerError(Exception):
    def __init__(self, status):
        super().__init__(f"status {status}")
        self.status = status


@pytest.mark.parametrize(
    "error", [ConnectionResetError("reset"), TimeoutError("slow"), ServerError(503), ServerError(429)]
)
def test_a_passing_fault_is_tried_again(failing, waits, error):
    calls = failing(error, 4)
    assert read_bytes("s3://bucket/index.json") == b"content"
    assert len(calls) == remote.TRIES == 5
    assert all(0.75 * 2**n <= 2 * wait <= 1.25 * 2**n for n, wait in enumerate(waits))
    assert len({wait / 2**n for n, wait in enumerate(waits)}) == 4  # with jitter


def test_it_is_given_up_in_one_line(failing, waits):
    failing(ConnectionResetError("reset\nby peer"), 99)
    with pytest.raises(ValueError, match=r"cannot read s3://b/i: ConnectionResetError: reset \(tried 5 times\)$"):
        read_bytes("s3://b/i")


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError("no"),
        PermissionError("no"),
        ServerError(403),
        ServerError(404),
        ImportError("pip install s3fs"),
        OSError(errno.ENOSPC, "disk full"),
    ],
)
def test_a_lasting_fault_is_not(failing, waits, error):
    calls = failing(error, 99)
    with pytest.raises(ValueError, match="cannot read") as caught:
        read_bytes("https://host/x")
    assert (len(calls), waits) == (1, [])
    assert isinstance(caught.value, NotThereError) == isinstance(error, FileNotFoundError)


def test_a_copy_is_kept_once_and_only_if_it_is_right(failing, waits, tmp_path):
    calls = failing(TimeoutError("slow"), 1)
    right = hashlib.sha256(b"content").hexdigest()
    paths = {local_copy("gs://b/a.tar", right, str(tmp_path)) for _ in range(2)}
    assert [path.read_bytes() for path in paths] == [b"content"]
    assert len(calls) == 2  # the failure and the download; the second copy comes from the cache
    with pytest.raises(ValueError, match="sha256"):
        local_copy("gs://b/b.tar", "0" * 64, str(tmp_path))
    assert [path.name for path in (tmp_path / "shards").iterdir()] == [right]


def test_a_connection_that_breaks_half_way_leaves_nothing_half(monkeypatch, waits, tmp_path):
    class Broken(io.BytesIO):
        def read(self, size=-1):
            if self.tell():
                raise ConnectionResetError("reset")
            return super().read(3)

    sources = iter([Broken(b"content"), io.BytesIO(b"content")])
    monkeypatch.setattr(fsspec, "open", lambda url, mode: next(sources))
    path = local_copy("gs://b/a.tar", hashlib.sha256(b"content").hexdigest(), str(tmp_path))
    assert path.read_bytes() == b"content"


def test_a_temporary_file_lasts_as_long_as_its_context(failing, waits, tmp_path):
    failing(None, 0)
    with local_file("s3://b/a.tar") as path:
        assert Path(path).read_bytes() == b"content"
    assert not Path(path).exists()
    (tmp_path / "a.tar").write_bytes(b"mine")
    with local_file(str(tmp_path / "a.tar")) as path:
        assert path == str(tmp_path / "a.tar")
    assert (tmp_path / "a.tar").exists()
    failing(FileNotFoundError("no"), 99)
    with pytest.raises(OSError, match="cannot fetch s3://b/gone"), local_file("s3://b/gone"):
        pass


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    busy = 2  # requests that are answered by 503

    def do_GET(self):
        if QuietHandler.busy:
            QuietHandler.busy -= 1
            self.send_error(503)
        else:
            super().do_GET()

    def log_message(self, *_):
        pass


def test_a_real_server_that_is_busy_is_asked_again(tmp_path, waits):
    (tmp_path / "index.json").write_bytes(b"{}")
    handler = functools.partial(QuietHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        assert read_bytes(f"{url}/index.json") == b"{}"
        assert len(waits) == 2
        with pytest.raises(NotThereError):
            read_bytes(f"{url}/missing.json")
        server.shutdown()
