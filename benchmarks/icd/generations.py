"""Pictures of prompts from noise (C9, C10, C12): the teacher in many steps, the students in few, LCM sampling.

Distance to drawings and the scorer's alignment; of concepts seen in training, as the scorer knows no others.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.icd.bench import Bench, fine_times
from benchmarks.icd.chains import Chains
from benchmarks.icd.evaluation_set import Pictures, some_of
from benchmarks.icd.inversions import chain_name
from benchmarks.icd.results import Row, timed
from fewstep.diffusion.guidance import Denoiser, DynamicGuidance, GuidanceSchedule
from fewstep.diffusion.solvers import consistency_sampling
from fewstep.icd.pair import InvertibleConsistency
from fewstep.rng import PerSampleRng


class Generations:
    """every: pictures of the split whose captions are drawn; num of them are, and all are what is aimed at."""

    def __init__(self, bench: Bench, every: Pictures, num: int, split: str) -> None:
        self.bench, self.split = bench, split
        self.wanted = some_of(every, num, bench.seed)
        self.real = bench.judge.gaussian(every.image)
        self.condition = bench.prompts(self.wanted.caption)
        shape = bench.data.shape[1:]
        self.noise = PerSampleRng(bench.seed, self.wanted.key, bench.device).normal(*shape)

    def of_teacher(self) -> None:
        bench, ends = self.bench, self.bench.pair.boundaries
        grids = {"DDIM 50": fine_times(0)[::-1], f"DDIM {len(ends.decode_times) - 1}": ends.decode_times}
        guidance = DynamicGuidance(bench.scale)
        for method, times in grids.items():
            row = self._row(method, f"w={bench.scale:g}")
            self._add(row, times, partial(self._chain, bench.chains.down, times, guidance))

    def of_students(self, config: str, export: str, pair: InvertibleConsistency) -> None:
        bench, times = self.bench, pair.boundaries.decode_times
        steps = chain_name(pair.boundaries).split("+")[1]
        for name, guidance in (bench.guidances | dict([bench.ramp])).items():
            row = self._row(f"iCD {steps}", name, config, export)
            self._add(row, times, lambda g=guidance: self._chain(pair.reverse, times, g))
        row = self._row(f"LCM sampling {steps}", f"w={bench.scale:g}", config, export)
        self._add(row, times, lambda: self._stochastic(pair.reverse, times))

    def _chain(self, denoiser: Denoiser, times: tuple[float, ...], guidance: GuidanceSchedule) -> tuple[Tensor, float]:
        chains = Chains(denoiser, self.bench.pair.model.parametrization, self.bench.batch)
        return chains.decode(self.noise, times, self.condition, guidance)

    @torch.no_grad()
    def _stochastic(self, denoiser: Denoiser, times: tuple[float, ...]) -> tuple[Tensor, float]:
        rng = PerSampleRng(self.bench.seed + 1, self.wanted.key, self.bench.device)
        guidance = DynamicGuidance(self.bench.scale)
        models = denoiser, self.bench.pair.model.parametrization
        return timed(
            lambda: consistency_sampling(*models, self.noise, times, self.condition, guidance, rng), self.bench.device
        )

    def _row(self, method: str, guidance: str, config: str = "teacher", export: str | None = None) -> Row:
        row = self.bench.row("generation", method, guidance, config, export, num=len(self.wanted))
        return row | {"split": self.split}

    def _add(self, row: Row, times: tuple[float, ...], draw: Callable[[], tuple[Tensor, float]]) -> None:
        if not self.bench.results.lacks(row):
            return
        latents, spent = draw()
        images = self.bench.images(latents)
        values = {"alignment": self.bench.judge.alignment(images, self.wanted.scoring_caption)}
        scalars = {"nfe": len(times) - 1, "seconds": round(spent / len(latents), 5)}
        self.bench.results.add(row, values, fd_mobilenet=self.bench.judge.distance(images, self.real), **scalars)
