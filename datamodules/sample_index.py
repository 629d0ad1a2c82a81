"""Where every sample of a set of shards lies: key, shard, and the byte span of each of its fields, as arrays.

A sample is the members of one tar that share a key, and a field is one of these members: `a/b.edited.PNG` is the field
`edited.png` of the key `a/b` (WebDataset's rule: the key ends at the first dot of the file name, fields in lower case).
Arrays cost a few bytes per sample, fork and pickle cheaply, and make sample number i one lookup and one read.
"""

import mmap
import os
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np

from datamodules.foreign_files import HEAD, missing, what_else
from datamodules.npy_decoding import view_npy
from datamodules.sample_grouping import MOST_FIELDS, TOO_MANY_FIELDS, group_samples
from datamodules.tar_members import tar_members
from fewstep.files.durable import replace_file

OFFSETS_VERSION = 1
UNREADABLE = (  # what reading a damaged zip file can raise
    OSError,
    ValueError,
    LookupError,
    TypeError,
    EOFError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass
class SampleIndex:
    """N samples. `fields` maps a field name to int64 [N, 2], (offset, size) in bytes, (-1, -1) where it is absent."""

    paths: list[str]
    shard: np.ndarray  # int32 [N], number of each sample's shard in `paths`
    keys: np.ndarray  # bytes [N], utf-8
    fields: dict[str, np.ndarray]
    faults: list[str] = field(default_factory=list)  # what scanning met, one line each

    def __len__(self) -> int:
        return len(self.shard)

    def key(self, i: int) -> str:
        """Key of sample i; unique within its shard."""
        return self.keys[i].decode("utf-8", "backslashreplace")

    def span(self, i: int, name: str) -> tuple[str, int, int] | None:
        """Path of the shard, offset and size of one field of sample i; None if the sample has no such field."""
        if name not in self.fields or (offset := int(self.fields[name][i, 0])) < 0:
            return None
        return self.paths[self.shard[i]], offset, int(self.fields[name][i, 1])

    def select(self, rows: np.ndarray) -> "SampleIndex":
        """The samples with these numbers, in this order."""
        fields = {name: spans[rows] for name, spans in self.fields.items()}
        return SampleIndex(self.paths, self.shard[rows], self.keys[rows], fields, self.faults)

    def same_places(self, other: "SampleIndex") -> bool:
        """Whether both find the same fields of the same samples at the same places of a shard."""
        same = self.keys.tolist() == other.keys.tolist() and self.fields.keys() == other.fields.keys()
        return same and all(np.array_equal(self.fields[name], other.fields[name]) for name in self.fields)

    @staticmethod
    def concatenate(parts: "Sequence[SampleIndex]") -> "SampleIndex":
        """The samples of several indexes, in order; ValueError if they have too many different fields together."""
        names = list(dict.fromkeys(name for part in parts for name in part.fields))
        if len(names) > MOST_FIELDS:
            raise ValueError(f"{len(names)} different field names such as {names[-1]!r}; {TOO_MANY_FIELDS}")
        starts = np.cumsum([0, *(len(part.paths) for part in parts)])
        shards = [part.shard + start for part, start in zip(parts, starts, strict=False)]
        spans = {name: [part.fields.get(name, np.full((len(part), 2), -1)) for part in parts] for name in names}
        return SampleIndex(
            [path for part in parts for path in part.paths],
            np.concatenate([np.zeros(0), *shards]).astype(np.int32),
            np.concatenate([np.zeros(0, "S1"), *(part.keys for part in parts)]),
            {name: np.concatenate(found) for name, found in spans.items()},
            [fault for part in parts for fault in part.faults],
        )


def scan_shard(path: str) -> tuple[SampleIndex, list[str]]:
    """Index one local tar by its headers; the faults are lines that begin with the path (they are in `.faults` too).

    A damaged archive gives the samples before the damage; what is no tar is called what it is. Of two samples with one
    key, or two fields with one name, the first is kept. Members of one key need not be neighbours. ValueError in one
    line for a file that is not there or cannot be opened.
    """
    members, damage, left_out = [], "empty file", []
    with opened(path) as file:
        if os.fstat(file.fileno()).st_size:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
                members, damage, left_out = tar_members(raw)
                damage = damage and (what_else(raw[:HEAD]) or damage)
    samples = group_samples(members)
    keys = np.array(samples.keys, dtype=bytes) if samples.keys else np.zeros(0, "S1")
    fields = {name: np.full((len(keys), 2), -1, dtype=np.int64) for name in samples.fields}
    for name, spans in samples.fields.items():
        fields[name][list(spans)] = list(spans.values())
    faults = [f"{path}: {fault}" for fault in [*filter(None, [damage]), *left_out, *samples.faults]]
    return SampleIndex([path], np.zeros(len(keys), np.int32), keys, fields, faults), faults


def opened(path: str) -> BinaryIO:
    """The file at this path; ValueError in one line without it."""
    if not os.path.isfile(path):
        raise ValueError(f"{path}: {missing(path)}")
    try:
        return open(path, "rb")
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; make it readable, or move it away") from error


def write_offsets(path: str, index: SampleIndex) -> None:
    """Keep the index of one whole shard as an .npz of plain arrays, all or nothing; the shard must be there."""
    if len(index.paths) != 1 or index.faults:
        raise ValueError(f"{path}: only the index of one shard without faults is kept")
    content = BytesIO()
    np.savez_compressed(
        content,
        header=np.array([OFFSETS_VERSION, os.path.getsize(index.paths[0])], dtype="<i8"),
        keys=index.keys,
        names=np.array([name.encode() for name in index.fields], dtype=bytes),
        spans=np.array([*index.fields.values()], dtype="<i8").reshape(len(index.fields), len(index), 2),
    )
    replace_file(Path(path), content.getvalue())


def read_offsets(path: str, shard_path: str) -> SampleIndex:
    """The index of the tar at `shard_path` that write_offsets kept; ValueError unless it fits a file of that size."""
    shard_bytes = os.path.getsize(shard_path)
    try:
        with zipfile.ZipFile(path) as file:
            # a sample takes 512 bytes of its shard or more, and at most 1536 here
            header, keys, names, spans = (
                npy_array(file, f"{name}.npy", 4 * shard_bytes + (1 << 16))
                for name in ("header", "keys", "names", "spans")
            )
        fields = dict(zip([name.decode() for name in names.tolist()], spans, strict=True))
        inside = (spans >= 0).all(axis=2) & (spans <= shard_bytes).all(axis=2) & (spans.sum(axis=2) <= shard_bytes)
        whole = (
            header.tolist() == [OFFSETS_VERSION, shard_bytes]
            and (keys.dtype.kind, spans.dtype.kind, spans.shape) == ("S", "i", (len(fields), len(keys), 2))
            and bool((inside | (spans == -1).all(axis=2)).all())
        )
    except UNREADABLE as error:
        raise ValueError(f"{path}: not an offsets file ({type(error).__name__}); delete it or copy it again") from error
    if not whole:
        raise ValueError(f"{path}: not the offsets of {shard_path}; delete it, or copy both again")
    return SampleIndex([shard_path], np.zeros(len(keys), np.int32), keys, fields)


def npy_array(file: zipfile.ZipFile, name: str, most_bytes: int) -> np.ndarray:
    """One array of an .npz, read only when it is small enough, and never unpickled."""
    if file.getinfo(name).file_size > most_bytes:
        raise ValueError("too large")
    values = view_npy(file.read(name), strings=True)
    if values.dtype.kind not in "iS":
        raise ValueError("not an array of whole numbers or bytes")
    return values
