"""What every way of editing is given in the comparison, and what it gives back: one signature for all of them.

    rival(base, sources, asked, seed) -> Edited

base: the frozen model. sources: [N, 3, H, W] in [-1, 1] without what the edit brings, to learn from.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from fewstep.fast_edit.direction.edit_loss import EditLoss
from fewstep.fast_edit.edit_base import EditBase
from fewstep.fast_edit.encoding import Encoder, Encoding
from fewstep.rng import PerSampleRng

AT_ONCE = 64  # pictures that are edited in one call of the network
REMEMBERED = 1024  # encodings by DDIM


class Looked(NamedTuple):
    """Of pictures that are not learnt from: the share with what is asked, and how much of the rest is as before."""

    asked: float
    kept: float


class Point(NamedTuple):
    """A look while learning. seconds of the process and forward passes, spent on learning without looks; used: pictures
    that were encoded for it so far. Seconds and passes count their encodings."""

    updates: int
    seconds: float
    passes: int
    used: int
    asked: float
    kept: float


@dataclass
class Learning:
    """encoding_seconds, encoding_passes: of one picture. num: pictures that there were to learn from. best: updates
    after which the weights were kept, by the sum of both shares of a look."""

    encoding_seconds: float = 0.0
    encoding_passes: int = 0
    num: int = 0
    best: int = 0
    points: list[Point] = field(default_factory=list)


class Memory:
    """Encoders that remember, so that looks and strengths do not walk pictures again. Learning has its own."""

    def __init__(self) -> None:
        self.encoders: dict[tuple[str, Encoding], Encoder] = {}

    def __call__(self, base: EditBase, encoding: Encoding) -> Encoder:
        key = (base.sha256, encoding)
        return self.encoders.setdefault(key, Encoder(base, encoding, REMEMBERED))

    @contextmanager
    def emptied(self) -> Iterator[None]:
        """Inside, nothing is remembered from before, and nothing of it is afterwards: for a clock."""
        kept, self.encoders = self.encoders, {}
        try:
            yield
        finally:
            self.encoders = kept


@dataclass(frozen=True)
class Asked:
    """loss: of the edit. t0: time that it starts from. having: [M, 3, H, W], real pictures with what it brings, other
    ones than the sources. captions: of the pictures that `apply` is given, as they shall be, captions_before: as they
    are. look: what a way of editing reaches; it is called with one."""

    loss: EditLoss
    t0: float
    having: Tensor
    look: Callable[[Callable[[Tensor], Tensor]], Looked]
    captions: Sequence[str] = ()
    memory: Memory = field(default_factory=Memory)
    captions_before: Sequence[str] = ()


class Edited(Protocol):
    """passes: of the network for a picture, all told. learning: None where nothing was learnt."""

    learning: Learning | None

    @property
    def passes(self) -> int: ...

    def apply(self, pictures: Tensor, strength: float = 1.0) -> Tensor:
        """[B, 3, H, W] in [-1, 1] -> the same, edited; 0 is no edit, 1 the edit as it was learnt."""
        ...


Rival = Callable[[EditBase, Tensor, Asked, int], Edited]


def in_batches(edit: Callable[[Tensor, PerSampleRng], Tensor], pictures: Tensor, seed: int) -> Tensor:
    """Row i has the noise of (seed, i), however many there are at once."""
    parts = torch.arange(len(pictures)).split(AT_ONCE)
    return torch.cat([edit(pictures[rows], PerSampleRng(seed, rows.tolist(), pictures.device)) for rows in parts])
