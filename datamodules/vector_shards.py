"""A folder of vector shards: its index, its splits, and their rows by number.

A folder holds `SPLIT-000000.tar ...` (tar_shard.py reads one) and `index.json`, which shard_writing.py writes and
describes. Sizes and counts must agree with the index; a folder without one is scanned. Splits of this project:
train_paired, val and test hold pairs, train_x only x, train_y only y; each sample of probe is a group of rows.
"""

import math
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datamodules.remote import file_sha256, is_remote, local_copy, read_bytes
from datamodules.shard_names import is_plain_name
from datamodules.tar_shard import Block, Sample, read_shard
from fewstep.files.local_paths import local_path, where
from fewstep.files.plain_json import parse_json, small_file
from fewstep.files.table_columns import check_columns, columns_of

SHARD_NAME = re.compile(r"([A-Za-z0-9_]+)-\d+\.tar")
SHA256 = re.compile("[0-9a-f]{64}")
COUNTS = ("bytes", "samples", "rows", "x_dim", "y_dim")


class Rows:
    """The rows of one side of a split, [len(self), dim], read on demand."""

    def __init__(self, blocks: list[Block]):
        self.blocks = blocks
        self.dim = blocks[0].rows.shape[1]
        self.ends = np.cumsum([len(block.rows) for block in blocks])
        for block in blocks:
            if block.rows.shape[1] != self.dim:
                raise ValueError(
                    f"{block.name}: rows of {block.rows.shape[1]} numbers, but {blocks[0].name} has {self.dim}; "
                    "every block of a split needs the same dimension"
                )

    def __len__(self) -> int:
        return int(self.ends[-1])

    def take(self, index: np.ndarray) -> np.ndarray:
        """float32 [len(index), dim]: the rows with these numbers; ValueError if one is not finite."""
        index = np.asarray(index, dtype=np.int64)
        owner = np.searchsorted(self.ends, index, side="right")
        order = np.argsort(owner, kind="stable")
        taken = np.empty((len(index), self.dim), dtype=np.float32)
        for here in np.split(order, np.flatnonzero(np.diff(owner[order])) + 1) if len(index) else []:
            block = self.blocks[owner[here[0]]]
            first = self.ends[owner[here[0]]] - len(block.rows)
            with np.errstate(over="ignore"):  # a float64 beyond float32 becomes inf and is reported below
                taken[here] = block.rows[index[here] - first]
        if not (finite := np.isfinite(taken).all(axis=1)).all():
            block = self.blocks[owner[np.argmin(finite)]]
            raise ValueError(f"{block.name}: NaN or infinite value; remove the sample or rebuild the shard")
        return taken


class Split(NamedTuple):
    """A whole split; `group_sizes` [samples] is the number of rows of each sample (a probe group is one sample)."""

    x: Rows | None
    y: Rows | None
    group_sizes: np.ndarray


class ShardFolder:
    """A folder of vector shards, local or remote; `verify` also compares the sha256 of every shard that is opened."""

    def __init__(self, path: str, verify: bool = False):
        path = local_path(str(path))
        self.path, self.verify, self.remote = path, verify, is_remote(path)
        self.index = self._read_index()
        self.dims = {side: dim for side in "xy" if (dim := columns_of(self.index, side)) is not None}
        if not self.index["splits"]:
            raise ValueError(
                f"{self.path}: no shards here (SPLIT-000000.tar); build them with python -m datamodules.prepare"
            )

    def _read_index(self) -> dict:
        if self.remote:
            return parse_index(read_bytes(f"{self.path.rstrip('/')}/index.json"), self.path)
        folder = Path(self.path)
        if not folder.is_dir():
            raise ValueError(
                f"no folder {self.path!r}{where(self.path)}; build it with python -m datamodules.prepare, or correct "
                "the path"
            )
        if (folder / "index.json").is_file():
            return parse_index(small_file(folder / "index.json"), self.path)
        splits: dict[str, dict] = {}
        for file in sorted(folder.iterdir()):
            if (found := SHARD_NAME.fullmatch(file.name)) and not file.is_dir():
                splits.setdefault(found[1], {"shards": []})["shards"].append({"file": file.name})
        return {"splits": splits}

    def __contains__(self, split: str) -> bool:
        return split in self.index["splits"]

    def shard(self, entry: dict) -> list[Sample]:
        """The samples of one shard of the index, checked against its entry."""
        if self.remote:
            path = local_copy(f"{self.path.rstrip('/')}/{entry['file']}", entry["sha256"], size=entry["bytes"])
        else:
            path = Path(self.path, entry["file"])
        samples = read_shard(path, entry["file"], entry.get("bytes"))
        rows = sum(len((s.x or s.y).rows) for s in samples)
        for what, found in (("samples", len(samples)), ("rows", rows)):
            if entry.get(what, found) != found:
                raise ValueError(f"{path}: {found} {what}, index.json says {entry[what]}; copy it again or rebuild it")
        if self.verify and "sha256" in entry and file_sha256(path) != entry["sha256"]:
            raise ValueError(f"{path}: content differs from index.json (sha256); copy it again or rebuild it")
        return samples

    def open(self, split: str) -> Split:
        """Open a split; ValueError names the folder and the splits it has when there is no such split."""
        if split not in self:
            raise ValueError(f"{self.path}: no split {split!r}, only {', '.join(self.index['splits'])}")
        samples = [s for entry in self.index["splits"][split]["shards"] for s in self.shard(entry)]
        sides = {}
        for side in ("x", "y"):
            blocks = [block for s in samples if (block := getattr(s, side)) is not None]
            if blocks and len(blocks) != len(samples):
                raise ValueError(f"{self.path}: split {split!r} has {side} in {len(blocks)} of {len(samples)} samples")
            sides[side] = Rows(blocks) if blocks else None
            if blocks and self.dims.setdefault(side, sides[side].dim) != sides[side].dim:
                raise ValueError(
                    f"{blocks[0].name}: rows of {sides[side].dim} numbers, but {side} has {self.dims[side]} in the "
                    "index or in another split; rebuild the folder"
                )
        return Split(**sides, group_sizes=np.array([len((s.x or s.y).rows) for s in samples]))


def parse_index(content: bytes, folder: str) -> dict:
    """The index as a dict; ValueError when it is not one, or when it points outside its folder."""
    name = f"{folder}/index.json"
    try:
        index = parse_json(content)
        shards = [shard for split in index["splits"].values() for shard in split["shards"]]
        files = [shard["file"] for shard in shards]
        schema = index["schema"]
        counts = [entry.get(key, 1) for entry in (*shards, index) for key in COUNTS]
        counts += [shard["bytes"] for shard in shards]
        counts += [split[key] for split in index["splits"].values() for key in COUNTS if key in split]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{name} is not a shard index ({type(error).__name__}: {error}); rebuild it") from error
    if wrong := [count for count in counts if type(count) is not int or not 0 <= count < 1 << 63]:
        raise ValueError(f"{name} gives a size or a count as {str(wrong[0])[:40]}, not as a whole number; rebuild it")
    if schema != 1:
        raise ValueError(f"{name} has schema {schema!r}, this version reads 1; rebuild the folder")
    if (kind := index.get("kind")) not in (None, "images", "vectors"):
        raise ValueError(f"{name} has the kind {str(kind)[:40]!r}, this version reads images and vectors; rebuild it")
    for side in "xy":
        check_columns(index, side, name)
    for split, entry in index["splits"].items():
        for what in ("samples", "rows"):
            total = sum(shard.get(what, math.nan) for shard in entry["shards"])
            if what in entry and not math.isnan(total) and total != entry[what]:
                stated = f"{entry[what]} {what} in split {split!r}"
                raise ValueError(f"{name} gives {stated}, its shards have {total}; rebuild it")
    check_files(shards, name)
    if twice := [file for file, count in Counter(files).items() if count > 1]:
        raise ValueError(f"{name} lists {twice[0]} twice: samples would count twice or lie in two splits; rebuild it")
    return index


def check_files(shards: list[dict], name: str) -> None:
    """ValueError unless the files that an index names lie beside it: names become paths, and hashes those of copies."""
    for shard in shards:
        for what, suffix, digest in (("file", ".tar", "sha256"), ("offsets", ".offsets.npz", "offsets_sha256")):
            file, sha256 = shard.get(what), shard.get(digest)
            if what in shard and not (is_plain_name(file, suffix) and SHA256.fullmatch(str(sha256))):
                kind = "shard" if what == "file" else what
                stated = f"the {kind} {str(file)[:80]!r} ({str(sha256)[:80]!r})"
                raise ValueError(f"{name} names {stated}; expected a {suffix} beside it and its sha256; rebuild it")
