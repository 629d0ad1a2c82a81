"""Opening image shards: every kind of source, what an index promises, and where scanned offsets are kept."""

import functools
import hashlib
import http.server
import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from datamodules import image_folder
from datamodules.image_folder import open_images
from datamodules.prepare.__main__ import main
from datamodules.prepare.image_shard_writing import Samples, write_image_folder
from datamodules.sample_index import SampleIndex, scan_shard
from datamodules.shard_sources import shard_urls, splits


def render(key: str) -> dict[str, bytes]:
    return {"png": key.encode() * 50, "txt": f"caption of {key}".encode()}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "fewstep" / "index"


@pytest.fixture
def folder(tmp_path):
    """train of 3 shards (7 samples), val of 1 (2 samples)."""
    parts = {"train": [f"t{i}" for i in range(7)], "val": ["v0", "v1"]}
    about = {"name": "toy", "license": "CC0-1.0", "command": "none"}
    samples = {split: Samples(keys, render) for split, keys in parts.items()}
    write_image_folder(str(tmp_path / "toy"), samples, about, samples_per_shard=3, progress=False)
    return tmp_path / "toy"


def keys(index: SampleIndex) -> list[str]:
    """Keys, after a look at the bytes that the spans point to."""
    for row in range(len(index)):
        for name, expected in render(index.key(row)).items():
            path, offset, size = index.span(row, name)
            assert Path(path).read_bytes()[offset : offset + size] == expected
    return [index.key(row) for row in range(len(index))]


TRAIN = [f"t{i}" for i in range(7)]


def test_a_folder_with_an_index_needs_no_scan(folder, monkeypatch):
    monkeypatch.setattr(image_folder, "scan_shard", None)
    assert splits(str(folder)) == ["train", "val"]
    assert keys(open_images(str(folder), "train")) == TRAIN
    assert keys(open_images(str(folder), "val")) == ["v0", "v1"]


def test_a_folder_without_an_index_is_scanned_once(folder, cache, monkeypatch):
    (folder / "index.json").unlink()
    for file in folder.glob("*.npz"):
        file.unlink()
    assert splits(str(folder)) == ["train", "val"]
    assert keys(open_images(str(folder), "train")) == TRAIN
    assert len(list(cache.iterdir())) == 3
    scanned = []
    monkeypatch.setattr(image_folder, "scan_shard", lambda path: scanned.append(path) or scan_shard(path))
    assert keys(open_images(str(folder), "train")) == TRAIN
    assert scanned == []
    first = folder / "train-000000.tar"
    os.utime(first, ns=(1, 1))  # perhaps another content of the same size
    next(cache.iterdir()).write_bytes(b"damaged")
    assert keys(open_images(str(folder), "train")) == TRAIN
    assert str(first) in scanned
    assert not list(folder.glob("*.npz"))  # the user's folder is never written to


def test_a_cache_that_cannot_be_written_costs_only_time(folder, tmp_path):
    (folder / "index.json").unlink()
    (tmp_path / "file").write_text("not a folder")
    assert keys(open_images(str(folder), "train", cache_dir=str(tmp_path / "file"))) == TRAIN


def test_tars_braces_and_lists(folder, tmp_path):
    assert keys(open_images(str(folder / "train-00000{0..2}.tar"), "train")) == TRAIN
    assert keys(open_images([str(folder / "train-000002.tar"), str(folder / "train-000000.tar")], "train")) == [
        "t6",
        "t0",
        "t1",
        "t2",
    ]
    assert keys(open_images([str(folder), str(folder)], "val")) == ["v0", "v1"] * 2
    (tmp_path / "plain").mkdir()
    for number, file in enumerate(sorted(folder.glob("*.tar"))):  # as img2dataset names them
        (tmp_path / "plain" / f"{number:05d}.tar").write_bytes(file.read_bytes())
    assert keys(open_images(str(tmp_path / "plain"), "train")) == [*TRAIN, "v0", "v1"]
    assert splits(str(tmp_path / "plain" / "{00000..00001}.tar")) == ["train"]
    (tmp_path / "a{b}").mkdir()
    (folder / "val-000000.tar").rename(tmp_path / "a{b}" / "val-000000.tar")
    assert keys(open_images(str(tmp_path / "a{b}"), "val")) == ["v0", "v1"]  # a name with braces is a name


def test_a_split_in_the_middle_of_names_is_not_mixed_into_training(folder, tmp_path):
    (tmp_path / "hub").mkdir()
    for split in ("train", "val"):
        source = folder / f"{split}-000000.tar"
        name = {"train": "train", "val": "validation"}[split]
        (tmp_path / "hub" / f"imagenet1k-{name}-0000.tar").write_bytes(source.read_bytes())
    assert splits(str(tmp_path / "hub")) == ["train", "validation"]
    assert keys(open_images(str(tmp_path / "hub"), "validation")) == ["v0", "v1"]


def test_a_damaged_tail_without_an_index_is_named_and_never_cached(folder, cache):
    (folder / "index.json").unlink()
    file = folder / "train-000001.tar"
    file.write_bytes(file.read_bytes()[: 512 * 5])  # the second of its three samples is cut
    for _ in range(2):
        index = open_images(str(folder), "train")
        assert [index.key(row) for row in range(len(index))][:4] == TRAIN[:4]
        assert len(index.faults) == 1
        assert index.faults[0].startswith(f"{file}: ")
    assert len(list(cache.iterdir())) == 2


def change(folder, **values):
    index = json.loads((folder / "index.json").read_text())
    index["splits"]["train"]["shards"][0] |= values
    (folder / "index.json").write_text(json.dumps(index))


def about(folder, split, **values):
    index = json.loads((folder / "index.json").read_text())
    index["splits"][split] |= values
    index["splits"][split] = {key: value for key, value in index["splits"][split].items() if value is not None}
    (folder / "index.json").write_text(json.dumps(index))


def kind(folder, value):
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(index | {"kind": value}))


def empty(folder, split):
    index = json.loads((folder / "index.json").read_text())
    index["splits"][split] |= {"shards": [], "samples": 0}
    (folder / "index.json").write_text(json.dumps(index))


def flip(file, position):
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "train-000001.tar").unlink(), r"train-000001\.tar: missing"),
        (lambda f: (f / "train-000001.tar").write_bytes(b"x" * 512), r"000001\.tar: 512 bytes, index.json says"),
        (lambda f: flip(f / "train-000001.tar", 600), r"train-000001\.tar: content differs .*sha256"),
        (lambda f: flip(f / "train-000001.offsets.npz", 99), r"train-000001\.offsets\.npz: content differs .*sha256"),
        (lambda f: (change(f, samples=4), about(f, "train", samples=None)), "3 samples, index.json says 4"),
        (lambda f: change(f, samples=4), "samples in split 'train', its shards have"),
        (lambda f: about(f, "val", samples=7), "gives 7 samples in split 'val', its shards have"),
        (lambda f: about(f, "val", samples="7"), "a size or a count as 7"),
        (lambda f: kind(f, "image"), "has the kind 'image', this version reads images and vectors"),
        (lambda f: kind(f, ["images"]), "has the kind"),
        (lambda f: change(f, file="../train-000000.tar"), "index.json names the shard"),
        (lambda f: change(f, offsets="../../x.offsets.npz"), "index.json names the offsets"),
        (lambda f: change(f, offsets="/etc/passwd"), "index.json names the offsets"),
        (lambda f: change(f, offsets_sha256="../x"), "index.json names the offsets"),
        (lambda f: change(f, file="train-000001.tar"), r"lists train-000001\.tar twice"),
        (lambda f: empty(f, "train"), "the index lists no shards for the split 'train'"),
        (lambda f: (f / "index.json").write_text("[1]"), "is not a shard index"),
    ],
)
def test_what_does_not_agree_with_the_index_is_one_line(folder, damage, message):
    damage(folder)
    with pytest.raises(ValueError, match=message) as caught:
        open_images(str(folder), "train", verify=True)
    assert "\n" not in str(caught.value)
    assert main(["check", str(folder)]) in (1, 2)  # what training refuses is not called sound


def test_an_index_that_does_not_say_its_kind_is_read_and_checked(folder, capsys):
    index = json.loads((folder / "index.json").read_text())
    del index["kind"]
    (folder / "index.json").write_text(json.dumps(index))
    assert keys(open_images(str(folder), "train")) == TRAIN
    assert main(["check", str(folder), "--quick"]) == 0
    assert "sound" in capsys.readouterr().out


def test_lost_offsets_are_found_again(folder):
    (folder / "train-000001.offsets.npz").unlink()
    assert keys(open_images(str(folder), "train")) == TRAIN


@pytest.mark.parametrize(
    ("source", "split", "message"),
    [
        ("nowhere", "train", "nowhere: no such file or folder"),
        ("toy", "test", "no split 'test', only 'train', 'val'"),
        ("toy/train-000000.tar", "val", "no split 'val', only 'train'"),
        ("toy/train-000009.tar", "train", "no such file"),
        ("toy/train-{000000..000001.tar", "train", "both braces"),
        ("toy/index.json", "train", "not a folder or a .tar"),
        ("cache", "train", "no .tar files at all"),
        ("pipe:cat x.tar", "train", "refusing"),
        ("pipe:cat {a,b}.tar", "train", "refusing"),
    ],
)
def test_a_wrong_source_is_one_line(folder, tmp_path, monkeypatch, source, split, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cache").mkdir()
    with pytest.raises(ValueError, match=message) as caught:
        open_images(source, split)
    assert "\n" not in str(caught.value)


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def served(folder):
    handler = functools.partial(QuietHandler, directory=str(folder.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/toy"
        server.shutdown()


def lie(folder):
    """Stored offsets that give samples the names of others, with the sha256 that the index states."""
    file = folder / "train-000001.offsets.npz"
    with np.load(file) as kept:
        arrays = dict(kept)
    np.savez_compressed(file, **arrays | {"keys": arrays["keys"][::-1]})
    index = json.loads((folder / "index.json").read_text())
    entry = next(e for e in index["splits"]["train"]["shards"] if e["file"] == "train-000001.tar")
    entry["offsets_sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    (folder / "index.json").write_text(json.dumps(index))


def test_offsets_on_a_server_are_checked(served, folder, capsys):
    lie(folder)
    assert main(["check", served, "--quick"]) == 1
    assert "train-000001.offsets.npz differs from the headers of the tar" in capsys.readouterr().err


def test_offsets_are_compared_with_their_tar_where_everything_is_verified(folder):
    assert keys(open_images(str(folder), "train", verify=True)) == TRAIN
    lie(folder)
    with pytest.raises(ValueError, match=r"train-000001\.offsets\.npz differs from the headers of its tar"):
        open_images(str(folder), "train", verify=True)


def test_a_tar_that_took_the_place_of_another_is_scanned_anew(folder, cache):
    """Of the same size and date, as reproducible archives and `cp -p` leave it."""
    (folder / "index.json").unlink()
    file = folder / "val-000000.tar"
    before = file.stat()
    assert keys(open_images(str(folder), "val")) == ["v0", "v1"]
    other = file.with_name("other")
    other.write_bytes(file.read_bytes().replace(b"v0.", b"w0."))
    other.replace(file)
    repair(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    index = open_images(str(folder), "val")
    assert [index.key(row) for row in range(len(index))] == ["w0", "v1"]


def repair(file):
    """Recompute the checksums of headers after a change of names of one letter."""
    content = bytearray(file.read_bytes())
    for start in range(0, len(content), 512):
        if content[start + 257 : start + 262] == b"ustar":
            header = content[start : start + 512]
            header[148:156] = b" " * 8
            content[start + 148 : start + 156] = b"%06o\0 " % sum(header)
    with file.open("r+b") as handle:
        handle.write(content)


def test_a_remote_folder_is_copied_where_asked(served, folder, tmp_path):
    index = open_images(served, "train", cache_dir=str(tmp_path / "copies"))
    assert keys(index) == TRAIN
    stored = {hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.glob("train*")}
    assert {file.name for file in (tmp_path / "copies" / "shards").iterdir()} == stored
    assert shard_urls(served, "val") == [f"{served}/val-000000.tar"]
    assert shard_urls(f"{served}/train-00000{{1,2}}.tar", "train") == [f"{served}/train-00000{n}.tar" for n in (1, 2)]


def test_a_remote_folder_without_an_index_can_only_be_streamed(served, folder):
    (folder / "index.json").unlink()
    with pytest.raises(ValueError, match=r"sampling: resampled"):
        open_images(served, "train")
    assert shard_urls(served, "val") == [f"{served}/val-000000.tar"]  # the server lists its folders
