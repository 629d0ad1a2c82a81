"""Chains of jumps up to the noise and down from it, none of them computed twice.

A sweep over the time below which decoding is guided shares all that comes before: the unguided chain is kept, and each
member of the sweep starts where its guidance does.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from benchmarks.icd.results import timed
from fewstep.diffusion.guidance import Condition, Denoiser, GuidanceSchedule, unguided
from fewstep.diffusion.predictions import Parametrization
from fewstep.diffusion.solvers import ddim, time_like

Chain = list[tuple[Tensor, float]]  # states [N, ...] and the seconds that each took, from its start on


class Chains:
    """Of N rows, `batch` at once. denoiser: encodes and decodes, or `reverse` decodes if it is another one."""

    def __init__(
        self, denoiser: Denoiser, parametrization: Parametrization, batch: int = 64, reverse: Denoiser | None = None
    ) -> None:
        self.up, self.down = denoiser, reverse or denoiser
        self.parametrization, self.batch = parametrization, batch
        self.codes: dict[object, tuple[Tensor, float]] = {}
        self.plain: dict[object, Chain] = {}
        self.decoded: dict[object, tuple[Tensor, float]] = {}

    def encode(
        self,
        data: Tensor,
        noise: Tensor,
        times: Sequence[float],
        condition: Condition,
        guidance: GuidanceSchedule = unguided,
        solver: Callable[..., Tensor] = ddim,
        key: object = None,
    ) -> tuple[Tensor, float]:
        """(code [N, ...], seconds), from data with the noise of times[0]. key: tells this guidance apart.

        Data may be the first rows of what was encoded before.
        """
        name = (tuple(times), solver, key)
        if name not in self.codes or len(self.codes[name][0]) < len(data):
            x = self.parametrization.add_noise(data, noise, time_like(data, times[0]))
            self.codes[name] = timed(lambda: self._run(solver, self.up, x, times, condition, guidance), data.device)
        code, spent = self.codes[name]
        return code[: len(data)], spent * len(data) / len(code)

    def decode(
        self,
        code: Tensor,
        times: Sequence[float],
        condition: Condition,
        guidance: GuidanceSchedule = unguided,
        key: object = None,
    ) -> tuple[Tensor, float]:
        """(data [N, ...], seconds) along falling times. key: tells codes and conditions apart."""
        scales = guidance(torch.tensor(times[:-1])).tolist()
        name = (tuple(times), tuple(scales), key)
        if name not in self.decoded:
            self.decoded[name] = self._decoded(code, times, condition, guidance, scales, key)
        return self.decoded[name]

    def _decoded(
        self,
        code: Tensor,
        times: Sequence[float],
        condition: Condition,
        guidance: GuidanceSchedule,
        scales: list[float],
        key: object,
    ) -> tuple[Tensor, float]:
        free = next((step for step, scale in enumerate(scales) if scale != 1), len(scales))
        chain = self.plain.setdefault((tuple(times), key), [(code, 0.0)])
        for step in list(pairwise(times))[len(chain) - 1 : free]:
            state, spent = self._step(chain[-1][0], step, condition, unguided)
            chain.append((state, chain[-1][1] + spent))
        x, total = chain[free]
        for step in list(pairwise(times))[free:]:
            x, spent = self._step(x, step, condition, guidance)
            total += spent
        return x, total

    def _step(
        self, x: Tensor, step: tuple[float, float], condition: Condition, guidance: GuidanceSchedule
    ) -> tuple[Tensor, float]:
        return timed(lambda: self._run(ddim, self.down, x, step, condition, guidance), x.device)

    @torch.no_grad()
    def _run(
        self,
        solver: Callable[..., Tensor],
        denoiser: Denoiser,
        x: Tensor,
        times: Sequence[float],
        condition: Condition,
        guidance: GuidanceSchedule,
    ) -> Tensor:
        parts = []
        for start in range(0, len(x), self.batch):
            rows = slice(start, start + self.batch)
            part = {name: value[rows] for name, value in condition.items()}
            parts.append(solver(denoiser, self.parametrization, x[rows], times, part, guidance))
        return torch.cat(parts)
