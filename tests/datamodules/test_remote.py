"""Remote files: which faults are tried again, and that only the right bytes are kept."""

import errno
import hashlib
import http.server
import io
import threading
from pathlib import Path

import fsspec
import pytest

from datamodules.image_folder import open_images
from datamodules.remote import list_tars, local_copy, local_file
from datamodules.shard_sources import folder_index
from fewstep.files import remote_reading
from fewstep.files.remote_reading import NotThereError, read_bytes
from tests.datamodules.picture_shards import write_folder


@pytest.fixture
def waits(monkeypatch):
    """The seconds that would have been waited."""
    waits = []
    monkeypatch.setattr(remote_reading.time, "sleep", waits.append)
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
    assert len(calls) == remote_reading.TRIES == 5
    assert all(0.75 * 2**n <= 2 * wait <= 1.25 * 2**n for n, wait in enumerate(waits))
    assert len({wait / 2**n for n, wait in enumerate(waits)}) == 4  # with jitter


def test_it_is_given_up_in_one_line(failing, waits):
    failing(ConnectionResetError("reset\nby peer"), 99)
    with pytest.raises(ValueError, match=r"read s3://b/i: ConnectionResetError: reset by peer \(tried 5 times\)$"):
        read_bytes("s3://b/i")


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError("gone"),
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
        read_bytes("s3://host/x")
    assert (len(calls), waits) == (1, [])
    assert isinstance(caught.value, NotThereError) == (str(error) in ("gone", "status 404"))


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


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers from `answers` {path: what it takes in turn, the last for ever}; notes who asked for what."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path = self.path.split("?")[0]
        self.server.asked.append((self.command, path))
        left = self.server.answers.get(path, [404])
        answer = left.pop(0) if len(left) > 1 else left[0]
        status, body, headers = answer if isinstance(answer, tuple) else (answer, b"" if answer == 204 else b"no", {})
        if callable(body):
            self.send_response(status)
            self.end_headers()
            self.close_connection = True
            try:
                body(self.wfile)
            except OSError:
                self.server.hung_up.set()
            return
        self.send_response(status)
        length = {} if status == 204 else {"Content-Length": str(len(body))}
        for name, value in {**length, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET" and status not in (204, 302):
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def running():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads, server.handle_error = True, lambda *_: None
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def server(running):
    running.answers, running.asked, running.hung_up = {}, [], threading.Event()
    running.url = f"http://127.0.0.1:{running.server_port}"
    return running


GOOD = (200, b'{"ok": 1}', {})


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
@pytest.mark.parametrize("times", [1, 4])
def test_a_busy_server_is_asked_again(server, waits, status, times):
    server.answers["/a/index.json"] = [status] * times + [GOOD]
    assert read_bytes(f"{server.url}/a/index.json") == b'{"ok": 1}'
    assert server.asked == [("GET", "/a/index.json")] * (times + 1)
    assert len(waits) == times


@pytest.mark.parametrize(
    ("status", "words", "tries"),
    [
        (400, "400 Bad Request", 1),
        (401, "401 Unauthorized", 1),
        (403, "403 Forbidden", 1),
        (404, "404 Not Found", 1),
        (410, "410 Gone", 1),
        (429, "429 Too Many Requests", 5),
        (500, "500 Internal Server Error", 5),
        (503, "503 Service Unavailable", 5),
        (599, "599 an unknown status", 5),
        (204, "204 No Content", 1),
    ],
)
def test_a_status_is_called_what_it_is(server, waits, status, words, tries):
    server.answers["/x.json"] = [status]
    with pytest.raises(ValueError, match=f"^cannot read {server.url}/x.json: {words}") as caught:
        read_bytes(f"{server.url}/x.json")
    assert str(caught.value).endswith("(tried 5 times)") == (tries == 5)
    assert isinstance(caught.value, NotThereError) == (status in (404, 410))
    assert "\n" not in str(caught.value)
    assert len(server.asked) == tries


def test_a_busy_server_is_not_a_folder_without_an_index(server, waits):
    server.answers["/data/index.json"] = [503]
    with pytest.raises(ValueError, match="503 Service Unavailable"):
        folder_index(f"{server.url}/data")
    assert folder_index(f"{server.url}/other") is None


@pytest.mark.parametrize(
    ("asked", "least", "most"),
    [
        ("7", 7, 7),
        ("99999999999", 60, 60),
        ("nonsense", 0, 1),
        ("-5", 0, 1),
        ("", 0, 1),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 1),
        ("Thu, 31 Dec 2099 23:59:59 GMT", 60, 60),
    ],
)
def test_the_wait_that_a_server_asks_for_is_kept_up_to_a_bound(server, waits, asked, least, most):
    server.answers["/a"] = [(429, b"", {"Retry-After": asked}), GOOD]
    read_bytes(f"{server.url}/a")
    assert least <= waits[0] <= most


def endless(sink):
    while True:
        sink.write(bytes(1 << 16))


def test_what_never_ends_is_read_up_to_its_limit(server, waits, tmp_path):
    server.answers = {"/index.json": [(200, endless, {})], "/a.tar": [(200, endless, {})]}
    with pytest.raises(ValueError, match=r"index\.json: longer than 1000000 bytes$"):
        read_bytes(f"{server.url}/index.json", 1_000_000)
    assert server.hung_up.wait(30)
    with pytest.raises(ValueError, match=r"a\.tar: longer than 3000000 bytes$"):
        local_copy(f"{server.url}/a.tar", "0" * 64, str(tmp_path), 3_000_000)
    with pytest.raises(OSError, match="longer than 2000000 bytes"), local_file(f"{server.url}/a.tar", 2_000_000):
        pass
    assert list((tmp_path / "shards").iterdir()) == []
    assert waits == []  # trying again could not help


def test_a_shard_longer_than_its_index_says_is_not_fetched_whole(server, waits, tmp_path):
    from datamodules.prepare.__main__ import main

    folder = write_folder(tmp_path / "made", [4])
    assert main(["index", str(folder)]) == 0
    for file in folder.iterdir():
        server.answers[f"/made/{file.name}"] = [(200, file.read_bytes(), {})]
    assert len(open_images(f"{server.url}/made", "train", cache_dir=str(tmp_path / "one"))) == 4
    server.answers["/made/train-000000.tar"] = [(200, endless, {})]
    size = (folder / "train-000000.tar").stat().st_size
    with pytest.raises(ValueError, match=f"train-000000.tar: longer than {size} bytes"):
        open_images(f"{server.url}/made", "train", cache_dir=str(tmp_path / "two"))


def drip(sink):
    for _ in range(3000):
        sink.write(b" ")
        sink.flush()
        threading.Event().wait(0.01)


@pytest.mark.parametrize("body", [drip, lambda sink: threading.Event().wait(30)])
def test_a_server_that_hardly_sends_anything_is_given_up(server, waits, monkeypatch, body):
    monkeypatch.setattr(remote_reading, "PATIENCE", 0.2)
    monkeypatch.setattr(remote_reading, "TRIES", 2)
    server.answers["/slow"] = [(200, body, {})]
    with pytest.raises(ValueError, match=r"slow: (only \d+ bytes came in|nothing came for) .*\(tried 2 times\)$"):
        read_bytes(f"{server.url}/slow")


def test_a_redirect_leads_to_the_file_and_not_in_a_circle(server, waits):
    server.answers = {"/old": [(302, b"", {"Location": "/new"})], "/new": [GOOD]}
    assert read_bytes(f"{server.url}/old") == GOOD[1]
    server.answers = {"/new": [(302, b"", {"Location": "/old"})], "/old": [(302, b"", {"Location": "/new"})]}
    with pytest.raises(ValueError, match="more than 10 redirects"):
        read_bytes(f"{server.url}/old")
    server.answers["/out"] = [(302, b"", {"Location": "file:///etc/passwd"})]
    with pytest.raises(ValueError, match="redirected to what is no http address"):
        read_bytes(f"{server.url}/out")
    assert waits == []


def test_a_file_that_breaks_off_is_fetched_again(server, waits):
    server.answers["/a"] = [(200, b"half", {"Content-Length": "8"}), (200, b"half....", {})]
    server.answers["/a"][0] = (200, b"half", {"Content-Length": "8", "Connection": "close"})
    assert read_bytes(f"{server.url}/a") == b"half...."
    assert len(waits) == 1


def test_a_folder_is_listed_by_the_links_of_its_page(server, waits):
    links = ["b.tar", "a%20b.tar", "/data/c.tar", f"{server.url}/data/d.tar", "../e.tar", "//other/f.tar", "sub/g.tar"]
    links += ["javascript:x.tar", "notes.txt", "http://other/h.tar"]
    page = "".join(f'<li><A class=x HREF="{link}">x</a>' for link in links) + '<a href="cut'
    server.answers["/data/"] = [503, (200, page.encode(), {})]
    assert list_tars(f"{server.url}/data") == [f"{server.url}/data/{n}.tar" for n in ("a%20b", "b", "c", "d")]
    with pytest.raises(ValueError, match="404 Not Found"):
        list_tars(f"{server.url}/none")
    server.answers["/data/"] = [(200, endless, {})]
    with pytest.raises(ValueError, match="longer than"):
        list_tars(f"{server.url}/data")
