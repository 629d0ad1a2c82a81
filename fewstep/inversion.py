"""Encoding to noise and decoding from it with two few-step students over the same boundaries."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from fewstep.boundaries import Boundaries
from fewstep.guidance import Condition, Denoiser, GuidanceSchedule, unguided
from fewstep.predictions import Parametrization
from fewstep.solvers import ddim, jumps, time_like


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


@torch.no_grad()
def replay(
    reverse: Denoiser,
    parametrization: Parametrization,
    boundaries: Boundaries,
    data: Tensor,
    states: Sequence[Tensor],
    source: Condition,
    target: Condition,
    guidance: GuidanceSchedule = unguided,
) -> Tensor:
    """Edited data [B, ...]: decode under the target condition, corrected by what decoding the source gets wrong.

    data [B, ...] and states, what `encode` made of it: at these times an unguided source branch is put back where
    encoding was, and the target branch takes the same correction. So target = source without guidance returns the data.
    Each call has 2B rows (Ju et al. 2023, Direct Inversion, with one call per boundary).
    """
    known = dict(zip((round(time, 6) for time in boundaries.encode_times), states, strict=True)) | {0.0: data}
    both = {key: torch.cat([source[key], target[key]]) for key in source}

    def scales(t: Tensor) -> Tensor:
        plain, edited = t.chunk(2)
        return torch.cat([torch.ones_like(plain), guidance(edited)])

    x = torch.cat([states[-1], states[-1]])
    for step in pairwise(boundaries.decode_times):
        x = ddim(reverse, parametrization, x, step, both, scales)
        if (state := known.get(round(step[1], 6))) is not None:
            plain, edited = x.chunk(2)
            x = torch.cat([state, edited + (state - plain)])
    return x.chunk(2)[1]
