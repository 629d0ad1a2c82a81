"""Fashion-MNIST from small idx files."""

import gzip
import json
import tarfile
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from datamodules.image_decoding import decode_image
from datamodules.prepare import fashion_mnist
from datamodules.prepare.__main__ import main
from datamodules.vector_shards import ShardFolder

SPLITS = ("train_paired", "train_x", "train_y", "val", "test")


def read_folder(folder):
    """{split: {key: {suffix: bytes}}} with the standard library's reader."""
    found = defaultdict(lambda: defaultdict(dict))
    for path in sorted(Path(folder).glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, suffix = member.name.partition(".")
                found[path.name.rsplit("-", 1)[0]][key][suffix] = tar.extractfile(member).read()
    return found


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape) + array.tobytes()


@pytest.fixture
def idx_folder(tmp_path):
    rng = np.random.default_rng(1)
    sets = {}
    for name, count in (("train", 30), ("t10k", 10)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        (tmp_path / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images), mtime=0))
        (tmp_path / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels), mtime=0))
        sets[name] = images, labels
    return tmp_path, sets


@pytest.mark.parametrize("size", [28, 32])
def test_fashion_mnist_is_what_the_idx_files_hold(idx_folder, monkeypatch, size):
    folder, sets = idx_folder
    monkeypatch.setattr(fashion_mnist, "VAL", 5)
    assert main(["fashion_mnist", "--idx", str(folder), "--out", str(folder / "a"), "--size", str(size)]) == 0
    found = read_folder(folder / "a")
    assert {split: len(samples) for split, samples in found.items()} == {"train": 25, "val": 5, "test": 10}
    rows = set()
    for split, samples in found.items():
        for key, files in samples.items():
            source, row = key.rsplit("_", 1)
            assert (source == "test") == (split == "test")
            images, labels = sets["t10k" if source == "test" else "train"]
            about, pixels = json.loads(files["json"]), decode_image(files["png"]).numpy()
            edge = (size - 28) // 2
            inner = pixels[:, edge : edge + 28, edge : edge + 28]
            assert pixels.shape == (3, size, size)
            assert (inner == images[int(row)]).all()
            assert pixels.astype(int).sum() == inner.astype(int).sum()
            assert about["label"] == labels[int(row)]
            assert about["class"] in about["captions"][0]
            assert len(set(about["captions"])) == len(about["captions"])
            rows.add((source, int(row)))
    assert len(rows) == 40


@pytest.mark.parametrize("size", [28, 32])
def test_vectors_are_what_the_idx_files_hold_each_picture_in_one_split(idx_folder, monkeypatch, size):
    folder, sets = idx_folder
    monkeypatch.setattr(fashion_mnist, "VAL", 5)
    command = ["fashion_mnist", "--vectors", "--idx", str(folder), "--out", str(folder / "a"), "--size", str(size)]
    assert main(command) == 0
    assert main(["check", str(folder / "a")]) == 0
    shards, found = ShardFolder(str(folder / "a"), verify=True), Counter()
    assert {name: len(shards.open(name).group_sizes) for name in shards.index["splits"]} == dict.fromkeys(SPLITS, 1)
    for name in SPLITS:
        split = shards.open(name)
        rows = np.arange(split.group_sizes.sum())
        images, labels = sets["t10k" if name == "test" else "train"]
        if split.y:
            y = split.y.take(rows)
            assert y.shape == (len(rows), 1)
        if split.x:
            pixels = ((split.x.take(rows) + 1) * 127.5).round().astype(np.uint8).reshape(-1, size, size)
            edge = (size - 28) // 2
            inner = pixels[:, edge : edge + 28, edge : edge + 28]
            assert pixels.astype(int).sum() == inner.astype(int).sum()
            own = [int(np.flatnonzero((images == picture).all((1, 2)))[0]) for picture in inner]
            found.update((name == "test", row) for row in own)
            if split.y:
                assert labels[own].tolist() == y[:, 0].tolist()
    assert max(found.values()) == 1
    sizes = {name: int(shards.open(name).group_sizes.sum()) for name in SPLITS}
    assert sizes == {"train_paired": 8, "train_x": 9, "train_y": 8, "val": 5, "test": 10}
    assert shards.index["notes"]["classes"] == list(fashion_mnist.CLASSES)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("train-images-idx3-ubyte.gz", lambda raw: raw[:100], "cannot be unpacked"),
        ("train-images-idx3-ubyte.gz", lambda raw: b"plain", "cannot be unpacked"),
        ("train-labels-idx1-ubyte.gz", lambda raw: gzip.compress(b"\0\0\x0d\1" + bytes(40)), "no idx file of bytes"),
        ("train-labels-idx1-ubyte.gz", lambda raw: gzip.compress(gzip.decompress(raw)[:-1]), "29 bytes follow"),
        ("t10k-labels-idx1-ubyte.gz", lambda raw: gzip.compress(idx(np.full(10, 10, np.uint8))), "label 10"),
        (
            "t10k-labels-idx1-ubyte.gz",
            lambda raw: gzip.compress(idx(np.zeros(9, np.uint8))),
            "expected the same number",
        ),
        ("t10k-labels-idx1-ubyte.gz", None, "apt install dataset-fashion-mnist"),
    ],
)
def test_damaged_idx_files_are_one_line(idx_folder, capsys, name, change, message):
    path = idx_folder[0] / name
    path.unlink() if change is None else path.write_bytes(change(path.read_bytes()))
    assert main(["fashion_mnist", "--idx", str(idx_folder[0]), "--out", str(idx_folder[0] / "a")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (idx_folder[0] / "a").exists()
