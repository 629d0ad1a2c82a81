"""Two signals of whether a picture looks like data, which no CLIP has a say in: both find adversarial texture."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fewstep.augmentation import blurred
from fewstep.choices import require_range
from fewstep.diffusion.solvers import time_like
from fewstep.fast_edit.edit_base import EditBase
from fewstep.fast_edit.schedule_times import base_times
from fewstep.rng import PerSampleRng

TIMES = (0.02, 0.05, 0.1)  # steps 20, 50 and 100 of 1000, on DDPM's schedule
FLAT = 1e-4  # least high-pass energy that counts, a hundredth of that of pixel art: half a grey level's is 5e-6


@torch.no_grad()
def denoising_error(
    base: EditBase, pictures: Tensor, times: Sequence[float] = TIMES, draws: int = 1, seed: int = 0, batch: int = 64
) -> Tensor:
    """How badly the frozen base denoises pictures [B, 3, H, W] in [-1, 1]: mean squared error of its noise, [B] >= 0.

    The loss of Ho et al. 2020 (DDPM), Eq. 14, of each picture over `times` (see `base_times`) and `draws` of noise, in
    the base's own space: its latents if it has any. Little noise asks for texture only. Row i has the noise of (seed,
    i), so that rows of an edit and its source are compared under the same noise. draws * len(times) network passes.
    """
    require_range("draws", draws, 1)
    for time in times:
        require_range("times", time, 0, 1, above=True)
    places, errors = base_times(base, times), []
    for start in range(0, len(pictures), batch):
        data = base.encode(pictures[start : start + batch])
        rng = PerSampleRng(seed, range(start, start + len(data)), data.device)
        total = data.new_zeros(len(data))
        for time in [place for place in places for _ in range(draws)]:
            t, noise = time_like(data, time), rng.normal(*data.shape[1:]).to(data)
            x = base.parametrization.add_noise(data, noise, t)
            found = base.parametrization.noise(x, base.predict(x, t), t)
            total += (found - noise).square().flatten(1).mean(1)
        errors.append(total / (draws * len(places)))
    return torch.cat(errors)


def high_pass_energy(pictures: Tensor, deviation: float = 1.0) -> Tensor:
    """Mean square [B] of what a Gaussian blur takes from pictures [B, 3, H, W], over pixels and channels.

    deviation: of the Gaussian, in pixels of the pictures; cut off at three of them, the edge pixels repeated.
    """
    require_range("deviation", deviation, above=True)
    pictures = pictures.float()
    soft = blurred(pictures, pictures.new_full((len(pictures),), deviation), math.ceil(3 * deviation))
    return (pictures - soft).square().flatten(1).mean(1)


def high_frequency_ratio(edits: Tensor, sources: Tensor, deviation: float = 1.0) -> Tensor:
    """High-pass energy of edits over that of their sources, [B] > 0; both [B, 3, H, W] in [-1, 1].

    1 where both are flat: energies below FLAT count as FLAT.
    """
    edited, before = (high_pass_energy(pictures, deviation).clamp(min=FLAT) for pictures in (edits, sources))
    return edited / before
