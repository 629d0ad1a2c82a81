"""Opening image shards: every kind of source, what an index promises, and where scanned offsets are kept."""

import functools
import hashlib
import http.server
import io
import json
import os
import tarfile
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


def test_a_folder_with_an_index_is_scanned_once(folder, monkeypatch):
    assert splits(str(folder)) == ["train", "val"]
    for split in ("train", "val"):
        open_images(str(folder), split)
    monkeypatch.setattr(image_folder, "scan_shard", None)
    assert keys(open_images(str(folder), "train", verify=True)) == TRAIN
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


@pytest.mark.parametrize("way", ["in place", "renamed", "copied back"])
def test_a_shard_replaced_by_one_of_the_same_size_and_time_is_read_anew(folder, way):
    (folder / "index.json").unlink()
    file, other = folder / "train-000000.tar", folder / "other"
    assert keys(open_images(str(folder), "train")) == TRAIN
    state = file.stat()
    with tarfile.open(other, "w") as tar:
        for key in ("t2", "t1", "t0"):  # the same samples in another order: every span is that of another sample
            for suffix, content in render(key).items():
                entry = tarfile.TarInfo(f"{key}.{suffix}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    assert other.stat().st_size == state.st_size
    if way == "in place":
        file.write_bytes(other.read_bytes())
    elif way == "copied back":
        file.unlink()
        file.write_bytes(other.read_bytes())
    else:
        other.replace(file)
    other.unlink(missing_ok=True)
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert keys(open_images(str(folder), "train")) == ["t2", "t1", "t0", *TRAIN[3:]]


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


def swap_captions(arrays):
    txt = arrays["names"].tolist().index(b"txt")
    arrays["spans"][txt] = arrays["spans"][txt][::-1].copy()


def leave_out(arrays):
    arrays["keys"], arrays["spans"] = arrays["keys"][:2], arrays["spans"][:, :2]


def one_sample_thrice(arrays):
    arrays["spans"][:] = arrays["spans"][:, :1]


def one_key_thrice(arrays):
    arrays["keys"][:] = arrays["keys"][0]


def no_bytes(arrays):
    arrays["spans"][:, 0, 1] = 0


def no_fields(arrays):
    arrays["spans"][:, 0] = -1


def at_a_header(arrays):
    arrays["spans"][:, 0] = (0, 512)


def one_byte_further(arrays):
    arrays["spans"][0, 0, 0] += 1


def keys_turned_round(arrays):
    arrays["keys"] = arrays["keys"][::-1]


def fields_turned_round(arrays):
    arrays["names"] = arrays["names"][::-1]


def a_field_less(arrays):
    arrays["names"], arrays["spans"] = arrays["names"][:1], arrays["spans"][:1]


def signs_of_the_terminal(arrays):
    arrays["keys"] = np.array([b"\x1b[31m", b"b", b"c"])


LIES = [
    swap_captions, leave_out, one_sample_thrice, one_key_thrice, no_bytes, no_fields, at_a_header, one_byte_further,
    keys_turned_round, fields_turned_round, a_field_less, signs_of_the_terminal,
]  # fmt: skip


def tell(folder, lie):
    """Let the offsets of the first shard lie, with an index that agrees with them."""
    file = folder / "train-000000.offsets.npz"
    with np.load(file) as kept:
        arrays = dict(kept)
    lie(arrays)
    np.savez_compressed(file, **arrays)
    change(folder, offsets_sha256=hashlib.sha256(file.read_bytes()).hexdigest(), samples=len(arrays["keys"]))
    about(folder, "train", samples=len(arrays["keys"]) + 4)


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("lie", LIES)
def test_offsets_that_lie_are_not_believed(folder, lie, warm):
    if warm:
        open_images(str(folder), "train")
    tell(folder, lie)
    for _ in range(2):
        with pytest.raises(
            ValueError, match=r"000000\.offsets\.npz: differs from the headers of .*; delete it"
        ) as caught:
            open_images(str(folder), "train")
    assert "\n" not in str(caught.value)
    assert main(["check", str(folder), "--quick"]) == 1
    (folder / "train-000000.offsets.npz").unlink()
    change(folder, samples=3)
    about(folder, "train", samples=7)
    assert keys(open_images(str(folder), "train")) == TRAIN


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


def test_offsets_on_a_server_are_checked(served, folder, capsys):
    tell(folder, keys_turned_round)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"differs from the headers of .*; delete it"):
            open_images(served, "train")
    assert main(["check", served, "--quick"]) == 1
    assert "train-000000.offsets.npz differs from the headers of the tar" in capsys.readouterr().err


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
