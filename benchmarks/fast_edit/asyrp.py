"""Asyrp: a small block moves the bottleneck of a frozen UNet; Kwon et al. 2023 (arXiv 2210.10960), section 3.

x_s = alpha_s P(answer with h + block(h, t)) + sigma_s D(answer), P the data and D the noise that an answer stands for:
asymmetric, as a shift of both nearly cancels out. At times from t_edit on; below, plain DDIM. Their quality boost,
noise drawn anew in the last steps, is left out.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.fast_edit.h_space import answer_at, answer_with_h
from benchmarks.fast_edit.rivals import Learning, Memory, in_batches
from fewstep.diffusion.solvers import even_times, time_like
from fewstep.fast_edit.edit_base import EditBase
from fewstep.fast_edit.encoding import Encoding
from fewstep.fast_edit.schedule_times import base_times


class Block(nn.Module):
    """h [B, C, h, w] and an embedding of time [B, D] -> what is added to h; 0 until trained."""

    def __init__(self, channels: int, embedding: int, groups: int = 8) -> None:
        super().__init__()
        self.into = nn.Conv2d(channels, channels, 1)
        self.time = nn.Linear(embedding, channels)
        self.norm = nn.GroupNorm(groups, channels)
        self.out = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        hidden = self.into(h) + self.time(F.silu(embedding))[..., None, None]
        added: Tensor = self.out(F.silu(self.norm(hidden)))
        return added


class Step(NamedTuple):
    """after: x_s. data: what it aims at, with the block; plain: without. Each [B, C, h, w]."""

    after: Tensor
    data: Tensor
    plain: Tensor


def asymmetric_step(
    base: EditBase, block: Block | None, x: Tensor, t: Tensor, s: Tensor, strength: float = 1.0
) -> Step:
    """From x_t [B, C, h, w] to x_s, two passes with a block and one without. Gradients reach the block alone."""
    parametrization = base.parametrization
    with torch.no_grad():
        answer, h, embedding = answer_with_h(base, x, t)
    plain, noise = parametrization.data(x, answer, t), parametrization.noise(x, answer, t)
    data = plain
    if block is not None:
        data = parametrization.data(x, answer_at(base, x, t, strength * block(h, embedding)), t)
    return Step(parametrization.add_noise(data, noise, s), data, plain)


@dataclass
class AsyrpEdit:
    """strength: a factor of what the block adds, in which its effect is nearly linear (section 5 of the paper)."""

    base: EditBase
    block: Block
    encoding: Encoding
    num_steps: int
    t_edit: float
    memory: Memory
    learning: Learning | None

    @property
    def times(self) -> tuple[float, ...]:
        return even_times(self.num_steps, self.encoding.t0, 0.0)

    @property
    def steps(self) -> list[tuple[float, float]]:
        return list(pairwise(base_times(self.base, self.times)))

    @property
    def edited_steps(self) -> list[tuple[float, float]]:
        return [step for time, step in zip(self.times[:-1], self.steps, strict=True) if time >= self.t_edit - 1e-9]

    @property
    def passes(self) -> int:
        return self.encoding.passes + self.num_steps + len(self.edited_steps)

    @torch.no_grad()
    def apply(self, pictures: Tensor, strength: float = 1.0) -> Tensor:
        encoder = self.memory(self.base, self.encoding)
        return in_batches(lambda rows, _: self._decoded(encoder(self.base.encode(rows)), strength), pictures, 0)

    def _decoded(self, x: Tensor, strength: float) -> Tensor:
        for start, end in self.steps:
            block = self.block if (start, end) in self.edited_steps and strength else None
            x = asymmetric_step(self.base, block, x, time_like(x, start), time_like(x, end), strength).after
        return self.base.decode(x).clamp(-1, 1)
