"""The order of samples: endless seeded permutations, a pure function of whole numbers and never of a running generator.

So a run resumes where it stopped, and any number of processes and workers see together exactly what one would see.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

FARTHEST = 2**53  # position that a run can reach
SUBSET, ORDER = 0, 1  # the second number of every key: which samples are used, or in which order they come


def permutation(size: int, *key: int) -> np.ndarray:
    """The permutation of range(size) that belongs to these whole numbers from 0."""
    return np.random.default_rng(key).permutation(size)


def local_permutation(shard_sizes: np.ndarray, window: int, *key: int) -> np.ndarray:
    """A permutation of all samples that reads few shards at a time, for slow disks and cold caches.

    The shards come in random order, and samples are shuffled within consecutive windows of `window` samples.
    """
    rng = np.random.default_rng(key)
    starts = np.cumsum(shard_sizes) - shard_sizes
    shards = rng.permutation(len(shard_sizes))
    samples = np.concatenate([np.arange(starts[s], starts[s] + shard_sizes[s]) for s in shards])
    place = np.arange(len(samples)) // window + rng.random(len(samples))  # random within a window, windows in order
    return samples[np.argsort(place, kind="stable")]


def require_position(state: Any, *names: str) -> None:
    """ValueError in one line unless the state of a stream, which is untrusted, holds these whole numbers from 0."""
    for name in names:
        value = state.get(name) if isinstance(state, Mapping) else state
        if type(value) is not int or not 0 <= value <= FARTHEST:
            found = repr(value)[:60] if not isinstance(value, int) else f"a number of {value.bit_length()} bits"
            raise ValueError(f"the checkpoint's position in the data is damaged: {name} is {found}")


class EndlessOrder:
    """Samples 0..size-1 in one endless sequence of permutations; pass number e is `draw(*key, e)`, int64 [size]."""

    def __init__(self, size: int, *key: int, draw: Callable[..., np.ndarray] | None = None):
        self.size, self.key, self.draw = size, key, draw or partial(permutation, size)
        self.number, self.current = -1, np.empty(0, dtype=np.int64)

    def take(self, start: int, stop: int) -> np.ndarray:
        """Positions [start, stop) of the sequence, int64 [stop - start]."""
        parts = []
        while start < stop:
            number, offset = divmod(start, self.size)
            if number != self.number:
                self.number, self.current = number, self.draw(*self.key, number)
            parts.append(self.current[offset : offset + stop - start])
            start += len(parts[-1])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)
