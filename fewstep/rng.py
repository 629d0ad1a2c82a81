"""Random numbers that belong to a sample, not to its place in a batch.

Evaluation draws its noise from (seed, key of the sample), so a result does not depend on batch size, order, workers or
number of devices.
"""

import hashlib
import operator
import os
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def run_seed() -> int:
    """The seed of the run: what Lightning's `seed_everything` leaves to all processes, 0 where it was off."""
    return int(os.environ.get("PL_GLOBAL_SEED", 0))


def mix_seed(seed: int, key: int | str) -> int:
    """63-bit generator seed for one sample: the first bytes of SHA-256("seed:key"), the same on every machine.

    An integer and its decimal spelling are the same key. Python's `hash` would differ between processes.
    """
    name = key if isinstance(key, str) else operator.index(key)
    digest = hashlib.sha256(f"{operator.index(seed)}:{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class PerSampleRng:
    """One stream of random numbers per sample: row i depends only on (seed, keys[i]) and on the calls made before.

    keys: B integers or strings, e.g. `batch["index"].tolist()`. Draws are made on the CPU and then moved, so every
    device sees the same numbers; a draw costs a few microseconds per row. Two equal keys give two equal rows.
    """

    def __init__(self, seed: int, keys: Sequence[int | str], device: torch.device | str = "cpu") -> None:
        if isinstance(keys, str):
            raise ValueError(f"keys must be one key per sample, got the single string {keys!r}; write [{keys!r}]")
        self.device = torch.device(device)
        self.names = [f"{seed}:{key}" for key in keys]  # what tells each stream from all others
        self.generators = [torch.Generator().manual_seed(mix_seed(seed, key)) for key in keys]

    def __len__(self) -> int:
        return len(self.generators)

    def normal(self, *size: int) -> Tensor:
        """Standard normal draws [B, *size], float32."""
        return self._fill(size, Tensor.normal_)

    def uniform(self, *size: int) -> Tensor:
        """Uniform draws on [0, 1) [B, *size], float32."""
        return self._fill(size, Tensor.uniform_)

    def _fill(self, size: tuple[int, ...], fill: Callable[..., Tensor]) -> Tensor:
        rows = torch.empty(len(self), *size, dtype=torch.float32)
        for row, generator in zip(rows, self.generators, strict=True):
            fill(row, generator=generator)
        return rows.to(self.device)


def standard_normal(rng: PerSampleRng | None, like: Tensor, *size: int) -> Tensor:
    """Normal draws [B, *size], one row per row of `like` and on its device; rng None means torch's global generator."""
    if rng is None:
        return torch.randn(like.shape[0], *size, device=like.device, dtype=like.dtype)
    return _matched(rng, like, rng.normal(*size))


def standard_uniform(rng: PerSampleRng | None, like: Tensor, *size: int) -> Tensor:
    """Uniform draws on [0, 1) [B, *size], one row per row of `like`; see `standard_normal`."""
    if rng is None:
        return torch.rand(like.shape[0], *size, device=like.device, dtype=like.dtype)
    return _matched(rng, like, rng.uniform(*size))


def _matched(rng: PerSampleRng, like: Tensor, draws: Tensor) -> Tensor:
    if len(rng) != like.shape[0]:
        raise ValueError(f"rng has {len(rng)} keys for {like.shape[0]} rows; build it with one key per row")
    return draws.to(like)
