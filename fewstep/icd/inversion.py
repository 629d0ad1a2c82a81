"""Encoding to noise and decoding from it with two few-step students over the same boundaries."""

import torch
from torch import Tensor

from fewstep.diffusion.guidance import Condition, Denoiser, GuidanceSchedule, unguided
from fewstep.diffusion.predictions import Parametrization
from fewstep.diffusion.solvers import ddim, jumps, time_like
from fewstep.distillation.boundaries import Boundaries


@torch.no_grad()
def encode(
    forward: Denoiser,
    parametrization: Parametrization,
    boundaries: Boundaries,
    data: Tensor,
    noise: Tensor,
    condition: Condition,
) -> list[Tensor]:
    """States [B, ...] at boundaries.encode_times; the last one is the code. Unguided, m calls, no gradient.

    Starodubcev et al. 2024 (iCD), section 3.1. data, noise: [B, ...]; the noise, seeded per sample, matters only where
    boundaries.start > 0. condition: that of the source.
    """
    x = parametrization.add_noise(data, noise, time_like(data, boundaries.start))
    return [x, *jumps(forward, parametrization, x, boundaries.encode_times, condition)]


@torch.no_grad()
def decode(
    reverse: Denoiser,
    parametrization: Parametrization,
    boundaries: Boundaries,
    x: Tensor,
    condition: Condition,
    guidance: GuidanceSchedule = unguided,
) -> Tensor:
    """Data [B, ...] from a code or from pure noise x [B, ...] at t = 1. One call per reverse segment, no gradient."""
    return ddim(reverse, parametrization, x, boundaries.decode_times, condition, guidance)
