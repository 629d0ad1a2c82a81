"""Fashion-MNIST (MIT, Zalando Research): 70,000 grey pictures of clothes, 28 x 28, in ten classes, with captions.

Read from the four original idx files, which Debian's package dataset-fashion-mnist installs. With --vectors: rows of
pixels in [-1, 1] as x and the number of the class as y, for semi-supervised classification.
"""

import argparse
import gzip
import io
import json
import math
import zlib
from pathlib import Path

import numpy as np

from datamodules.prepare import add_output_arguments

DEBIAN_FOLDER = "/usr/share/datasets/fashion-mnist"
FILES = {"train": "train", "test": "t10k"}
CLASSES = (
    "T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
VAL = 5000
PAIRS = 5000  # of the rows for training in a folder of vectors; of the others every second keeps x, and the rest y
EDGE = 28
README = """# Fashion-MNIST, {size} x {size} px

Grey pictures of clothes on black in ten classes, MIT licence, Zalando SE (github.com/zalandoresearch/fashion-mnist).
WebDataset shards of KEY.png and KEY.json ({{captions, label, class}}). train {train}, val {val} (drawn from the
original training set with seed {seed}), test {test} (the original test set). Command: `{command}`
"""
VECTORS_README = """# Fashion-MNIST labels

Source: the original idx files of Fashion-MNIST (MIT, Zalando SE, github.com/zalandoresearch/fashion-mnist).
x: the {x_dim} pixels of a picture, row by row, in [-1, 1]; y: its class, 0 to {last}. From the original training set,
each picture in one split only (seed {seed}): train_paired {train_paired} pairs, train_x {train_x} pictures without a
label, train_y {train_y} labels without a picture, val {val} pairs; test {test} is the original test set.
Command: `{command}`
"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    add_output_arguments(command)
    command.add_argument("--idx", default=DEBIAN_FOLDER, metavar="FOLDER", help=f"default {DEBIAN_FOLDER}")
    command.add_argument("--size", type=int, choices=(28, 32), default=28, help="32: padded with black on all sides")
    command.add_argument("--vectors", action="store_true", help="rows of pixels and labels instead of pictures")


def run(options: argparse.Namespace) -> None:
    images, labels = {}, {}
    for name in FILES:
        images[name], labels[name] = read_pair(Path(options.idx), name)
    order = np.random.default_rng(options.seed).permutation(len(images["train"]))
    held_out = min(VAL, len(order) // 2)
    write = write_vectors if options.vectors else write_pictures
    write(options, images, labels, order[:held_out], order[held_out:])


def write_vectors(options: argparse.Namespace, images: dict, labels: dict, val: np.ndarray, train: np.ndarray) -> None:
    """Pairs, x alone and y alone from different pictures of the training set; val and train: their row numbers."""
    from datamodules.prepare.shard_writing import Description, write_folder

    pad = (options.size - EDGE) // 2
    pixels = {name: np.pad(part, ((0, 0), (pad, pad), (pad, pad))) for name, part in images.items()}
    x = {name: part.reshape(len(part), -1).astype(np.float32) / 127.5 - 1 for name, part in pixels.items()}
    y = {name: part[:, None].astype(np.float32) for name, part in labels.items()}
    pairs = min(PAIRS, len(train) // 3)
    splits = {
        "train_paired": {"x": x["train"][train[:pairs]], "y": y["train"][train[:pairs]]},
        "train_x": {"x": x["train"][train[pairs::2]]},
        "train_y": {"y": y["train"][train[pairs + 1 :: 2]]},
        "val": {"x": x["train"][val], "y": y["train"][val]},
        "test": {"x": x["test"], "y": y["test"]},
    }
    line = options.command_line
    notes = {"classes": list(CLASSES), "split_seed": options.seed}
    about = Description("fashion_mnist", "MIT", line, y_names=["label"], notes=notes)
    counts = {name: len(next(iter(sides.values()))) for name, sides in splits.items()}
    facts = {"x_dim": options.size**2, "last": len(CLASSES) - 1, "seed": options.seed, "command": line}
    write_folder(options.out, splits, about, VECTORS_README.format(**facts, **counts), options.overwrite)


def write_pictures(options: argparse.Namespace, images: dict, labels: dict, val: np.ndarray, train: np.ndarray) -> None:
    """PNG files with captions, in the order of the idx files; val and train: row numbers of the training set."""
    from datamodules.prepare.image_shard_writing import Samples, write_image_folder

    rows = {
        "train": ("train", np.sort(train)),
        "val": ("train", np.sort(val)),
        "test": ("test", np.arange(len(images["test"]))),
    }

    def render(key: str) -> dict[str, bytes]:
        source, row = key.rsplit("_", 1)
        label = int(labels[source][int(row)])
        about = {"captions": captions(CLASSES[label]), "label": label, "class": CLASSES[label]}
        return {"png": png(images[source][int(row)], options.size), "json": json.dumps(about).encode()}

    splits = {name: Samples([f"{source}_{row:05d}" for row in part], render) for name, (source, part) in rows.items()}
    counts = {name: len(samples.keys) for name, samples in splits.items()}
    line = options.command_line
    about = {"name": "fashion_mnist", "license": "MIT", "command": line, "image_size": options.size}
    about["notes"] = {"classes": list(CLASSES), "val_seed": options.seed}
    texts = {"README.md": README.format(size=options.size, seed=options.seed, command=line, **counts)}
    sources = sorted(Path(options.idx).glob("*-ubyte*"))
    write_image_folder(
        options.out, splits, about, options.overwrite, samples_per_shard=5000, texts=texts, sources=sources
    )


def captions(name: str) -> list[str]:
    """The plain caption first; plurals go without an article."""
    thing = name if name.endswith("s") else f"an {name}" if name[0] in "aeiou" else f"a {name}"
    lines = [f"a photo of {thing}", f"a small grey photo of {thing}", f"{thing} on a black background", name.lower()]
    return [*lines, f"{name} from a clothes shop"]


def read_pair(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, 28, 28] and labels uint8 [N] of "train" or "test"; ValueError in one line if they do not fit."""
    images = read_idx(folder, f"{FILES[name]}-images-idx3-ubyte", 3)
    labels = read_idx(folder, f"{FILES[name]}-labels-idx1-ubyte", 1)
    if images.shape[1:] != (EDGE, EDGE) or len(images) != len(labels) or len(labels) < 2:
        found = f"images {images.shape} and {len(labels)} labels"
        raise ValueError(f"{folder}: {FILES[name]} has {found}; expected the same number, 28 x 28")
    if labels.max() >= len(CLASSES):
        raise ValueError(f"{folder}: {FILES[name]} has label {labels.max()}; Fashion-MNIST has 0 to {len(CLASSES) - 1}")
    return images, labels


def read_idx(folder: Path, stem: str, dimensions: int) -> np.ndarray:
    """An idx file of unsigned bytes, gzipped (STEM.gz) or plain, as an array of that many dimensions."""
    path = next((path for path in (folder / f"{stem}.gz", folder / stem) if path.is_file()), None)
    if path is None:
        raise ValueError(f"{folder}: no {stem}.gz; `apt install dataset-fashion-mnist`, or name the folder with --idx")
    limit = (1 << 26) + 1  # bytes; the largest real file has 47 million
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            raw = file.read(limit)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be unpacked ({error}); copy it again") from error
    header = 4 + 4 * dimensions
    if len(raw) < header or raw[:4] != bytes([0, 0, 8, dimensions]):
        raise ValueError(f"{path}: starts {raw[:4].hex()}, so it is no idx file of bytes in {dimensions} dimensions")
    shape = tuple(int.from_bytes(raw[place : place + 4], "big") for place in range(4, header, 4))
    if len(raw) != header + math.prod(shape):
        raise ValueError(f"{path}: its header says {shape}, but {len(raw) - header} bytes follow; copy it again")
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)


def png(pixels: np.ndarray, size: int) -> bytes:
    """Grey pixels [28, 28] as a PNG, padded to size x size with black."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.pad(pixels, (size - EDGE) // 2)).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
