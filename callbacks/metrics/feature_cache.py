"""Features of real images on disk, so that each is computed once per network, whatever run or metric asks for it."""

import hashlib
import json
import os
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fewstep.files.durable import replacing

PART_ROWS = 4096  # features held in memory before they are written
MAX_BYTES = 2**32  # of one network's features; further images are computed anew


def content_ids(images: Tensor) -> Tensor:
    """uint8 [B, 3, H, W] -> int64 [B]: equal for equal pictures, else different with probability about 1 - 2^-57.

    A sum of bytes times fixed odd numbers modulo 2^64: integers, so every device and batch size gives the same.
    """
    size = images[0].numel() if len(images) else 0
    factors = torch.arange(1, size + 1, device=images.device) * 0x1E3779B97F4A7C15
    factors = (factors ^ (factors >> 29)) * 0x3F58476D1CE4E5B9
    factors = (factors ^ (factors >> 33)) | 1
    shape = hash(tuple(images.shape[1:])) & 0xFFFFFFFF  # of integers: the same in every process
    sums = [(image.flatten().long() * factors).sum() + shape for image in images]
    return torch.stack(sums).cpu() if sums else torch.zeros(0, dtype=torch.int64)


class FeatureCache:
    """Rows of float32 features by content id, in parts FOLDER/NETWORK/*.npy that appear whole or not at all.

    protocol: of the network; another protocol is another folder. A cache that cannot be written costs time only.
    """

    def __init__(self, folder: str | Path, protocol: dict[str, str], num_features: int) -> None:
        name = hashlib.sha256(json.dumps(protocol, sort_keys=True).encode()).hexdigest()[:16]
        self.folder = Path(folder) / name
        self.num_features = num_features
        self._parts: dict[str, np.ndarray] = {}  # memory maps
        self._place: dict[int, tuple[str, int]] = {}  # content id -> part and row
        self._new: dict[int, np.ndarray] = {}
        self._writable = True

    def refresh(self) -> None:
        """Take in what other processes and runs have written since."""
        for file in sorted(self.folder.glob("*.ids.npy")):
            name = file.name.removesuffix(".ids.npy")
            if name not in self._parts:
                try:
                    ids = np.load(file, allow_pickle=False)
                    rows = np.load(self.folder / f"{name}.features.npy", mmap_mode="r", allow_pickle=False)
                    fits = ids.dtype == np.int64 and rows.dtype == np.float32
                    if not fits or rows.shape != (len(ids), self.num_features):
                        raise ValueError("of another shape")
                except Exception:  # numpy evaluates the header, and raises whatever a damaged one leads to
                    continue  # as if it were not there
                self._parts[name] = rows
                self._place |= {int(number): (name, row) for row, number in enumerate(ids)}

    def find(self, ids: Tensor) -> list[np.ndarray | None]:
        """The stored row [D] of each content id, None where there is none."""
        return [self._row(number) for number in ids.tolist()]

    def add(self, ids: Tensor, features: Tensor) -> None:
        """Remember features [B, D]; they are written PART_ROWS at a time and by `flush`."""
        full = (len(self._place) + len(self._new)) * self.num_features * 4 >= MAX_BYTES
        if self._writable and not full:
            self._new |= dict(zip(ids.tolist(), features.float().cpu().numpy(), strict=True))
        if len(self._new) >= PART_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write what is new. Equal rows make an equal name, so processes that write the same do no harm."""
        if not self._new:
            return
        ids, rows = np.array(sorted(self._new), np.int64), [self._new[number] for number in sorted(self._new)]
        name = hashlib.sha256(ids.tobytes()).hexdigest()[:24]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _write(self.folder / f"{name}.features.npy", np.stack(rows))
            _write(self.folder / f"{name}.ids.npy", ids)  # last: only with it does the part count
        except OSError as error:
            self._writable = False
            warnings.warn(f"features of real images cannot be kept in {self.folder}: {error}", stacklevel=2)
        self._new = {}
        self.refresh()

    def _row(self, number: int) -> np.ndarray | None:
        if number in self._new:
            return self._new[number]
        part, row = self._place.get(number, ("", 0))
        return np.array(self._parts[part][row]) if part else None


def _write(path: Path, array: np.ndarray) -> None:
    with replacing(path) as partial, partial.open("wb") as file:
        np.save(file, array, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
