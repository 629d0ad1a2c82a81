"""Read one vector shard: a WebDataset tar whose samples are `KEY.x.npy` and `KEY.y.npy` blocks of rows, memory-mapped.

A block is float [K, D]; a 1-d [D] array is one row. A tar cut short or with a damaged header reads as a shorter tar in
most tools, without an error; here it must end in its end-of-archive zeros. Other members are never opened, and arrays
are read from their header and raw bytes: nothing is unpickled.
"""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datamodules.bad_sample import BadSample
from datamodules.foreign_files import missing, what_lies_at
from datamodules.npy_decoding import view_npy
from datamodules.tar_members import tar_members

MEMBER_NAME = re.compile(r"((?:.*/)?[^/.]+)\.([xy])\.npy")  # WebDataset: the key ends at the first dot of the file name


class Block(NamedTuple):
    """One array of a shard: `rows` [K, D] as stored, memory-mapped; `name` says where it lies, for error lines."""

    rows: np.ndarray
    name: str


class Sample(NamedTuple):
    """One key of a shard: x [K, Dx], y [K, Dy], or only one of them."""

    x: Block | None
    y: Block | None


def read_shard(path: Path, label: str, expected_bytes: int | None = None) -> list[Sample]:
    """All samples of one tar, in file order; ValueError in one line for anything that is not a whole, plain shard."""
    if not path.is_file() or not (size := path.stat().st_size):
        why = "empty shard; copy it again or rebuild it" if path.is_file() else missing(str(path))
        raise ValueError(f"{path}: {why}")
    if expected_bytes is not None and size != expected_bytes:
        what = what_lies_at(str(path)) or "copy it again or rebuild it"
        raise ValueError(f"{path}: {size} bytes, index.json says {expected_bytes}; {what}")
    raw = np.memmap(path, dtype=np.uint8, mode="r")
    members, damage, left_out = tar_members(raw)
    if damage:
        what = what_lies_at(str(path)) or f"truncated or damaged tar ({damage}); copy it again or rebuild it"
        raise ValueError(f"{path}: {what}")
    if left_out:
        raise ValueError(f"{path}: {left_out[0]}; rebuild the shard from plain files")
    found: dict[str, dict[str, Block]] = {}
    for member in members:
        if not (name := MEMBER_NAME.fullmatch(member.name)):
            if member.name.endswith((".x.npy", ".y.npy")):
                raise ValueError(f"{path}: key of {member.name!r} contains a dot; use letters, digits, _ and -")
            continue
        key, side = name.groups()
        if side in found.setdefault(key, {}):
            raise ValueError(f"{path}: {member.name} occurs twice; every key must be unique within a shard")
        where = f"{label}: {member.name}"
        found[key][side] = Block(parse_npy(raw[member.offset : member.offset + member.size], where), where)
    for key, sides in found.items():
        lengths = {side: len(block.rows) for side, block in sides.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"{path}: {key} has {lengths['x']} rows of x and {lengths['y']} of y; a pair needs both")
    if not found:
        raise ValueError(f"{path}: holds no KEY.x.npy or KEY.y.npy; these are not vector shards")
    return [Sample(sides.get("x"), sides.get("y")) for sides in found.values()]


def parse_npy(raw: np.ndarray, where: str) -> np.ndarray:
    """View the bytes of a .npy file as rows [K, D]; a 1-d array is one row; only real numbers are accepted."""
    try:
        rows = view_npy(raw)
    except BadSample as bad:
        raise ValueError(f"{where}: {bad.detail}; rewrite it with numpy.save as float32, or rebuild the shard") from bad
    if rows.ndim not in (1, 2) or min(rows.shape) < 1:
        raise ValueError(f"{where}: shape {rows.shape}; expected [rows, dim] or [dim], not empty")
    return rows if rows.ndim == 2 else rows[None]
