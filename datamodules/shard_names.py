"""What the names of shards say: which files are shards at all, and which split each belongs to.

A split may be called by any word of WORDS, in any case: `Val-0.tar`, `x_validation_0.tar` and `valid/0.tar` all hold
what `val` asks for. A shard keeps its own word, in lower case, so that `dev` and `val` of one folder stay apart.
"""

import os
import re
from collections.abc import Iterable, Mapping
from itertools import chain, islice
from pathlib import Path

WORDS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "validate", "eval", "evaluation", "dev"),
    "test": ("test", "testing"),
}
MEANING = {word: split for split, words in WORDS.items() for word in words}
PACKED = re.compile(r"\.(tar\.(gz|bz2|xz|zst|lz4|z)|tgz|tbz2?|txz|zip|7z|rar)$", re.IGNORECASE)
PICTURE = re.compile(r"\.(jpe?g|png|webp|gif|bmp|tiff?|avif|jp2|heic|jxl)$", re.IGNORECASE)
DIGITS = "0123456789"
LONGEST_NAME = 255  # bytes


def is_shard(name: str) -> bool:
    """Whether a listed file is a shard; hidden ones (AppleDouble `._0.tar`, half-copied `.0.tar.Xy`) are not."""
    return name.lower().endswith(".tar") and not name.startswith(".")


def is_plain_name(name: object, suffix: str) -> bool:
    """Whether an index may name this file: one that lies in the index's own folder, on any file system and server."""
    if not isinstance(name, str) or not name.lower().endswith(suffix) or name.startswith("."):
        return False
    written = name.encode("utf-8", "surrogateescape")
    return name.isprintable() and len(written) <= LONGEST_NAME and not any(sign in name for sign in "/\\*")


def local_shards(folder: str) -> list[str]:
    """Paths of the shards in a local folder, sorted; links to nowhere are among them, folders are not."""
    return sorted(str(file) for file in Path(folder).iterdir() if is_shard(file.name) and not file.is_dir())


def beside_shards(folder: str) -> list[str]:
    """What lies in a local folder and looks like data, but is not read: packed archives, folders that hold shards.

    A folder that is called like a shard is always named.
    """
    places = sorted(file for file in Path(folder).iterdir() if not file.name.startswith((".", "__")))
    packed = [file.name for file in places if PACKED.search(file.name)]
    below = (file for file in places if file.is_dir())
    return packed + [f"{f.name}/" for f in below if is_shard(f.name) or any(is_shard(one.name) for one in f.iterdir())]


def pictures_in(folder: str) -> list[str]:
    """Names of the pictures in a local folder and in the folders in it, at most the first hundred of each."""
    places = [Path(folder), *(place for place in sorted(Path(folder).iterdir()) if place.is_dir())]
    names = (sorted(islice(map(str, place.iterdir()), 100)) for place in places)
    return [os.path.relpath(name, folder) for name in chain.from_iterable(names) if PICTURE.search(name)]


def not_read(folder: str, read: Iterable[str]) -> list[str]:
    """One line on what of a local folder is no part of the data, if anything is; `read`: the paths of its shards."""
    shards = set(read)
    others = [*beside_shards(folder), *(Path(file).name for file in local_shards(folder) if file not in shards)]
    return [f"{folder}: not read are {examples(others)}"] if others else []


def splits_by_name(files: list[str]) -> list[str]:
    """The split of each shard: its word for one, or what stands before its first dash; no word anywhere: all `train`.

    Where no name has a word and the shards lie in several folders, the names of these tell: `train/0.tar`, `val/0.tar`.
    """
    stems = [re.sub(r"\.tar$", "", re.split(r"[/\\]", file)[-1], flags=re.IGNORECASE) for file in files]
    prefixed = any(word(stem.partition("-")[0]) for stem in stems)
    found = [own_split(stem, prefixed) for stem in stems]
    if any(found):
        return [split or stem.partition("-")[0] for split, stem in zip(found, stems, strict=True)]
    folders = [file.rpartition("/")[0].rpartition("/")[2] for file in files]
    return [word(folder) or "train" if len(set(folders)) > 1 else "train" for folder in folders]


def own_split(stem: str, prefixed: bool) -> str | None:
    """The split that one name tells, None if it tells none.

    prefixed: some shard is named `val-000000`, as this project writes them, so `train_easy-000000` has its own split.
    """
    prefix, dash, _ = stem.partition("-")
    parts = [prefix, *re.split(r"[-.]", stem)]
    if found := next(filter(None, map(word, parts)), None):
        return found
    if prefixed and dash and re.fullmatch(r"\w+", prefix) and "_" in prefix:
        return prefix
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", stem)
    return next(filter(None, map(word, words)), None)


def word(text: str) -> str | None:
    """The word for a split that this is, in lower case and without a number behind it, such as `val` of `Val2017`."""
    plain = text.lower().rstrip(DIGITS)
    return plain if plain in MEANING else None


def matching(split: str, found: Mapping[str, object] | Iterable[str]) -> str | None:
    """Which of these splits is meant: the one of that name, or the only one with another word for the same.

    ValueError if several have one; None if none has.
    """
    names = list(found)
    if split in names:
        return split
    wanted = MEANING.get(split.lower())
    others = [name for name in names if wanted and MEANING.get(name.lower()) == wanted]
    if len(others) > 1:
        raise ValueError(f"split {split!r} may be {' or '.join(map(repr, others))}; name one of them")
    return others[0] if others else None


def examples(names: list[str], most: int = 3) -> str:
    """The first few of these names, in quotes."""
    return ", ".join(map(repr, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")
