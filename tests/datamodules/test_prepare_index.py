"""An index for shards that were made elsewhere: read by it over HTTP, and left alone without being asked."""

import io
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from datamodules.image_folder import open_images
from datamodules.image_samples import ShardFiles
from datamodules.prepare.__main__ import main
from tests.datamodules.picture_shards import sample, write_tar


@pytest.fixture
def foreign(tmp_path):
    """Two shards named as img2dataset names them."""
    for shard in range(2):
        write_tar(tmp_path / f"{shard:05d}.tar", {f"{shard:05d}{n:04d}": sample(10 * shard + n) for n in range(5)})
    return tmp_path


def test_the_indexed_folder_is_read_by_sample_from_a_server(foreign, capsys, tmp_path_factory):
    assert main(["index", str(foreign), "--license", "CC0-1.0"]) == 0
    assert "train: 2 shards, 10 samples" in capsys.readouterr().out
    assert main(["check", str(foreign)]) == 0
    handler = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(foreign)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        cache = str(tmp_path_factory.mktemp("copies"))
        index = open_images(f"http://127.0.0.1:{server.server_port}", "train", cache_dir=cache)
    finally:
        server.shutdown()
    assert len(index) == 10
    assert ShardFiles().read(*index.span(7, "txt")) == b"picture 12"


def test_an_index_that_is_there_is_kept(foreign, capsys):
    (foreign / "index.json").write_text("mine")
    assert main(["index", str(foreign)]) == 2
    assert "add --overwrite" in capsys.readouterr().err
    assert (foreign / "index.json").read_text() == "mine"


def test_a_damaged_shard_gets_no_index(foreign, capsys):
    path = foreign / "00001.tar"
    path.write_bytes(path.read_bytes()[:-9000])
    assert main(["index", str(foreign)]) == 2
    assert "00001.tar" in capsys.readouterr().err
    assert not (foreign / "index.json").exists()


@pytest.mark.parametrize("side", ["x", "y"])
def test_vectors_get_no_index_of_pictures(tmp_path, capsys, side):
    rows = npy(np.ones((3, 2), np.float32))
    write_tar(tmp_path / "train_paired-000000.tar", {"a": {f"{side}.npy": rows}})
    assert main(["check", str(tmp_path)]) == 0
    capsys.readouterr()
    assert main(["index", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "train_paired-000000.tar: holds vectors" in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["train_paired-000000.tar"]


def test_arrays_called_x_beside_pictures_are_indexed_as_pictures(foreign):
    beside = sample(3) | {"x.npy": npy(np.ones(2, np.float32))}
    write_tar(foreign / "00002.tar", {"000020000": beside})
    assert main(["index", str(foreign)]) == 0
    assert main(["check", str(foreign)]) == 0
    assert len(open_images(str(foreign), "train")) == 11


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()
