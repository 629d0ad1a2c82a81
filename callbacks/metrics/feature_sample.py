"""The features of at most `limit` images, the same ones whatever the batches, the order and the number of processes."""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from lightning.pytorch import Trainer
from torch import Tensor

from callbacks.metrics.gathering import gather


class FeatureSample:
    """A uniform random sample of the images seen: those whose keys hash lowest, in the order of these hashes.

    Memory: 2 * limit rows of float32. Equal keys are ordered by their features.
    """

    def __init__(self, num_features: int, limit: int, seed: int = 0) -> None:
        if limit < 2:
            raise ValueError(f"max_images={limit}: at least 2 images must be kept")
        self.limit, self.seed, self.num_seen = limit, seed, 0
        self.ranks = np.zeros(0, np.uint64)
        self.features = np.zeros((0, num_features), np.float32)
        self._new: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, keys: Sequence[str], features: Tensor) -> None:
        """features [B, D], one row per key; B may be 0."""
        self._new.append((np.array([self._hash(key) for key in keys], np.uint64), features.float().cpu().numpy()))
        self.num_seen += len(keys)
        if sum(len(ranks) for ranks, _ in self._new) >= self.limit:
            self._merge()

    def gather(self, trainer: Trainer) -> tuple[Tensor, int]:
        """(features [n, D], number of images seen) over all processes; every process must call it and gets them all."""
        self._merge()
        if trainer.world_size == 1:
            return torch.from_numpy(self.features), self.num_seen
        # First the hashes alone: a process sends only those features that are in the sample of all processes.
        hashes = gather(trainer, (self.ranks, self.num_seen))
        lowest = np.sort(np.concatenate([ranks for ranks, _ in hashes]))[: self.limit]
        count = np.searchsorted(self.ranks, lowest[-1], side="right") if len(lowest) else 0
        whole = FeatureSample(self.features.shape[1], self.limit, self.seed)
        whole._new = gather(trainer, (self.ranks[:count], self.features[:count]))
        whole._merge()
        return torch.from_numpy(whole.features), sum(seen for _, seen in hashes)

    def _merge(self) -> None:
        ranks = np.concatenate([self.ranks, *(ranks for ranks, _ in self._new)])
        features = np.concatenate([self.features, *(features for _, features in self._new)])
        first = [features[:, column] for column in range(min(2, features.shape[1]))]
        order = np.lexsort((*reversed(first), ranks))[: self.limit]
        self.ranks, self.features, self._new = ranks[order], features[order], []

    def _hash(self, key: str) -> int:
        return int.from_bytes(hashlib.blake2b(f"{self.seed} {key}".encode(), digest_size=8).digest(), "little")
