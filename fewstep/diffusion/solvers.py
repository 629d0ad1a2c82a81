"""Samplers on a fixed grid of times, both directions, behind one signature.

    solver(denoiser, parametrization, x, times, condition, guidance, ...) -> x at times[-1]

x: [B, ...] at times[0]. times: numbers in [0, 1], falling to decode (noise -> data), rising to encode. condition: what
the denoiser takes, each [B, ...]. guidance: t [B] -> scales [B], unguided by default. The denoiser is called with B
rows, t [B] and scales [B]. Gradients flow; use torch.no_grad() where none is wanted. States are at least float32.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from fewstep.diffusion.guidance import Condition, Denoiser, GuidanceSchedule, unguided
from fewstep.diffusion.predictions import Parametrization
from fewstep.diffusion.schedules import per_sample
from fewstep.rng import PerSampleRng, standard_normal


def even_times(num_steps: int, start: float = 0.0, end: float = 1.0) -> tuple[float, ...]:
    """num_steps + 1 times at equal distances from start to end, either of which may be the larger."""
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    return (*(start + (end - start) * (step / num_steps) for step in range(num_steps)), end)


def jumps(
    denoiser: Denoiser,
    parametrization: Parametrization,
    x: Tensor,
    times: Sequence[float],
    condition: Condition,
    guidance: GuidanceSchedule = unguided,
) -> Iterator[Tensor]:
    """The state [B, ...] at each of times[1:], one denoiser call and one deterministic jump between neighbours."""
    for start, end in pairwise(times):
        t, s = time_like(x, start), time_like(x, end)
        x = parametrization.jump(x, denoiser(x, t, guidance(t), condition), t, s)
        yield x


def ddim(
    denoiser: Denoiser,
    parametrization: Parametrization,
    x: Tensor,
    times: Sequence[float],
    condition: Condition,
    guidance: GuidanceSchedule = unguided,
) -> Tensor:
    """The last of `jumps`: DDIM (Song et al. 2021) on a teacher, Euler's method where it predicts velocity.

    On a student and times that are its boundaries: multi-boundary consistency sampling or, rising, encoding
    (Starodubcev et al. 2024, section 3.2).
    """
    for state in jumps(denoiser, parametrization, x, times, condition, guidance):
        x = state
    return x


def fixed_point(
    denoiser: Denoiser,
    parametrization: Parametrization,
    x: Tensor,
    times: Sequence[float],
    condition: Condition,
    guidance: GuidanceSchedule = unguided,
    num_iterations: int = 5,
) -> Tensor:
    """The exact inverse of `ddim` over the reversed times, where its iterations converge.

    Each step t -> s seeks the x_s from which the jump s -> t returns to x_t, starting from the jump t -> s
    (Pan et al. 2023, AIDI; Garibi et al. 2024, ReNoise, without its averaging). num_iterations + 1 calls a step.
    """
    for start, end in pairwise(times):
        t, s = time_like(x, start), time_like(x, end)
        guess = parametrization.jump(x, denoiser(x, t, guidance(t), condition), t, s)
        for _ in range(num_iterations):
            back = parametrization.jump(guess, denoiser(guess, s, guidance(s), condition), s, t)
            skip, _out = parametrization.coefficients(s, t)
            guess = guess + (x - back) / per_sample(skip, x)
        x = guess
    return x


def dpm_solver(
    denoiser: Denoiser,
    parametrization: Parametrization,
    x: Tensor,
    times: Sequence[float],
    condition: Condition,
    guidance: GuidanceSchedule = unguided,
) -> Tensor:
    """DPM-Solver++(2M) for falling times: second order in one call a step (Lu et al. 2022, Algorithm 2).

    The data that each step aims at are extrapolated, in the log-SNR, from those of this call and of the one before. The
    first step, which has none before it, and one that ends in t = 0, where the log-SNR is infinite, are DDIM's.
    """
    clean = Parametrization(parametrization.schedule, "x0")
    before: tuple[Tensor, Tensor] | None = None  # data, and width of the step in log-SNR
    for start, end in pairwise(times):
        if not end < start:
            raise ValueError(f"times {start:g}, {end:g}: dpm_solver needs falling ones, from noise to data")
        t, s = time_like(x, start), time_like(x, end)
        data = parametrization.data(x, denoiser(x, t, guidance(t), condition), t)
        width = parametrization.schedule.log_snr(s) - parametrization.schedule.log_snr(t)
        aim = data
        if before is not None and end > 0:
            aim = data + per_sample(width / (2 * before[1]), x) * (data - before[0])
        x, before = clean.jump(x, aim, t, s), (data, width)
    return x


def consistency_sampling(
    denoiser: Denoiser,
    parametrization: Parametrization,
    x: Tensor,
    times: Sequence[float],
    condition: Condition,
    guidance: GuidanceSchedule = unguided,
    rng: PerSampleRng | None = None,
) -> Tensor:
    """Stochastic: predict the data, add fresh noise, again (Song et al. 2023, Algorithm 1; LCM). No encoder has it.

    rng: noise per sample; None means torch's global generator. Nothing is drawn for a step that ends in t = 0.
    """
    for start, end in pairwise(times):
        t = time_like(x, start)
        x = parametrization.data(x, denoiser(x, t, guidance(t), condition), t)
        if end > 0:
            x = parametrization.add_noise(x, standard_normal(rng, x, *x.shape[1:]), time_like(x, end))
    return x


def time_like(x: Tensor, time: float) -> Tensor:
    """The time for each row of x, [B], in float64 for such rows and in float32 for all others."""
    return x.new_full((len(x),), time, dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)
