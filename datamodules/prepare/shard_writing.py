"""Write a folder of vector shards and its index, all or nothing.

index.json:
    {schema: 1, name, license, command,            what it is, under which licence, and the command that built it
     x_dim, y_dim, x_names, y_names,               columns; names may be null
     x_mean, x_std, y_mean, y_std,                 standardisation applied, in original units (null: none)
     notes,                                        facts worth keeping about how it was made, such as audited residuals
     splits: {SPLIT: {rows, shards: [{file, bytes, sha256, samples, rows}]}}}
The same arrays give the same bytes: members carry no time and no owner.
"""

import io
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from datamodules.prepare.folder_replacing import real_folder, refuse_to_lose, replace_folder
from datamodules.remote import file_sha256
from fewstep.files.durable import write_synced

ROWS_PER_BLOCK = 1024
SAMPLES_PER_SHARD = 256
KEY = re.compile(r"[A-Za-z0-9_-]+")  # WebDataset ends a key at its first dot


@dataclass
class Description:
    """What index.json says about a data set besides its shards; the fields are explained in the module docstring."""

    name: str
    license: str
    command: str
    x_names: list[str] | None = None
    y_names: list[str] | None = None
    x_mean: list[float] | None = None
    x_std: list[float] | None = None
    y_mean: list[float] | None = None
    y_std: list[float] | None = None
    notes: dict = field(default_factory=dict)


def write_folder(
    out: str,
    splits: dict[str, dict[str, np.ndarray]],
    description: Description,
    readme: str | None = None,
    overwrite: bool = False,
) -> dict:
    """Write `splits` {split: {"x": array, "y": array}} (or one of the two) to the folder `out`; returns the index.

    Arrays [N, D] become blocks of rows; arrays [G, K, D] become G samples of K rows each (probe groups).
    Everything is written beside `out`, synced, then renamed, so that `out` is never half a data set.
    """
    target = real_folder(out)
    refuse_to_lose(target, overwrite)
    staging = target.with_name(f"{target.name}.tmp.{os.getpid()}")
    staging.mkdir(parents=True)
    try:
        index = {"schema": 1, **asdict(description), **dims(splits), "splits": {}}
        for split, sides in splits.items():
            index["splits"][split] = write_split(staging, split, sides)
        write_synced(staging / "index.json", json.dumps(index, indent=1).encode() + b"\n")
        if readme:
            write_synced(staging / "README.md", readme.encode())
        replace_folder(staging, target, overwrite)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return index


def dims(splits: dict[str, dict[str, np.ndarray]]) -> dict[str, int]:
    """x_dim and y_dim, the same in every split."""
    found = {f"{side}_dim": {s[side].shape[-1] for s in splits.values() if side in s} for side in ("x", "y")}
    for name, values in found.items():
        if len(values) != 1:
            raise ValueError(f"{name} must be one number over all splits, found {sorted(values)}")
    return {name: values.pop() for name, values in found.items()}


def blocks_of(split: str, sides: dict[str, np.ndarray]) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """(key, {side: [K, D]}) of every sample of a split."""
    lengths = {len(array) for array in sides.values()}
    if len(lengths) != 1 or not lengths.isdisjoint({0}):
        raise ValueError(f"split {split!r}: x and y need the same number of rows, at least 1; found {sorted(lengths)}")
    size = 1 if next(iter(sides.values())).ndim == 3 else ROWS_PER_BLOCK
    for start in range(0, lengths.pop(), size):
        part = {side: array[start : start + size] for side, array in sides.items()}
        yield f"{split}_{start // size:06d}", {s: a.reshape(-1, a.shape[-1]) for s, a in part.items()}


def write_split(folder: Path, split: str, sides: dict[str, np.ndarray]) -> dict:
    """Write one split as SPLIT-000000.tar, ...; returns its index entry."""
    samples = list(blocks_of(split, sides))
    shards = []
    for number, start in enumerate(range(0, len(samples), SAMPLES_PER_SHARD)):
        path = folder / f"{split}-{number:06d}.tar"
        shards.append(write_shard(path, samples[start : start + SAMPLES_PER_SHARD]))
    return {"rows": sum(shard["rows"] for shard in shards), "shards": shards}


def write_shard(path: Path, samples: list[tuple[str, dict[str, np.ndarray]]]) -> dict:
    """Write one tar of (key, {side: [K, D]}) samples and sync it; returns its index entry."""
    from webdataset import TarWriter

    with path.open("wb") as file:
        with TarWriter(file, encoder=False, mtime=0, user="", group="") as tar:
            for key, sides in samples:
                tar.write({"__key__": checked_key(key), **{f"{s}.npy": npy_bytes(key, a) for s, a in sides.items()}})
        file.flush()
        os.fsync(file.fileno())
    rows = sum(len(next(iter(sides.values()))) for _, sides in samples)
    return {
        "file": path.name,
        "bytes": path.stat().st_size,
        "sha256": file_sha256(path),
        "samples": len(samples),
        "rows": rows,
    }


def checked_key(key: str) -> str:
    """The key itself; ValueError if a WebDataset reader would cut it."""
    if not KEY.fullmatch(key):
        raise ValueError(f"key {key!r}: use letters, digits, _ and - only")
    return key


def npy_bytes(key: str, array: np.ndarray) -> bytes:
    """A .npy file of float32 rows; ValueError if a value is not finite."""
    rows = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(rows).all():
        raise ValueError(f"sample {key!r} holds NaN or infinite values; remove those rows first")
    buffer = io.BytesIO()
    np.save(buffer, rows, allow_pickle=False)
    return buffer.getvalue()
