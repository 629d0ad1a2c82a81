"""Features of real and generated images of an evaluation, for metrics that need the features themselves.

At most `max_images` of either side are kept, the same ones whatever the batches, the order and the number of processes.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from callbacks.metrics.image_outputs import counted
from callbacks.metrics.shared_features import SharedFeatures, shared_features
from fewstep.gathering import gather


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

    def gather(self) -> tuple[Tensor, int]:
        """(features [n, D], number of images seen) over all processes; every process must call it and gets them all."""
        self._merge()
        # First the hashes alone: a process sends only those features that are in the sample of all processes.
        hashes = gather((self.ranks, self.num_seen))
        if len(hashes) == 1:
            return torch.from_numpy(self.features), self.num_seen
        lowest = np.sort(np.concatenate([ranks for ranks, _ in hashes]))[: self.limit]
        count = np.searchsorted(self.ranks, lowest[-1], side="right") if len(lowest) else 0
        whole = FeatureSample(self.features.shape[1], self.limit, self.seed)
        whole._new = gather((self.ranks[:count], self.features[:count]))
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


class TwoSamples:
    """At most `max_images` images of either side, chosen by `seed` and key alone.

    network: of the features; None for the default that `place` is given. real_field: of the batch; None to keep
    generated images only. cache_dir: of the real images' features; None for the user's cache folder.
    """

    features: SharedFeatures

    def __init__(
        self, network: nn.Module | None, max_images: int, seed: int, real_field: str | None, cache_dir: str | None
    ) -> None:
        self.network, self.max_images, self.seed = network, max_images, seed
        self.real_field, self.cache_dir = real_field, cache_dir

    def place(self, trainer: Trainer, default: Callable[[], nn.Module]) -> None:
        """The network to the trainer's device, or in its place an equal one that is there already, which frees it."""
        network = default() if self.network is None else self.network
        self.features = shared_features(network, self.cache_dir, trainer)
        self.network = self.features.network

    def clear(self) -> None:
        """Before an evaluation."""
        sides = (FeatureSample(self.features.num_features, self.max_images, self.seed) for _ in range(2))
        self._real, self._generated = sides
        self.features.cache.refresh()

    def add(self, outputs: dict[str, Any], batch: dict[str, Any]) -> None:
        rows = counted(batch)
        self._generated.add(rows.keys, self.features.generated(outputs, rows))
        if self.real_field is not None:
            self._real.add(rows.keys, self.features.real(batch, rows, self.real_field))

    def gather(self, trainer: Trainer) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """(real [n, D], generated [n, D], protocol) over all processes, every one of which must call it.

        Row i of both is of one sample.
        """
        self.features.cache.flush()
        (real, num_real), (generated, num_generated) = self._real.gather(), self._generated.gather()
        device = trainer.strategy.root_device
        device = "cpu" if device.type == "mps" else device  # which has no float64
        protocol = {
            "num_generated": num_generated,
            "num_real": num_real,
            "num_used": [len(generated), len(real)],
            "seed": self.seed,
            "real": f"`{self.real_field}` of the batches",
            "features": self.features.protocol,
        }
        return real.to(device), generated.to(device), protocol
