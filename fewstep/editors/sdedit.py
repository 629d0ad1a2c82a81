"""SDEdit: a picture noised to some time and drawn anew from there, told what it shall show (Meng et al. 2022)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep.backbones import LatentDiffusion
from fewstep.diffusion.guidance import Condition, Denoiser, DynamicGuidance
from fewstep.diffusion.predictions import Parametrization
from fewstep.diffusion.solvers import ddim, even_times, time_like
from fewstep.editors.edits import Edited, Edits
from fewstep.editors.sparing_guidance import sparing
from fewstep.rng import PerSampleRng


@dataclass(frozen=True)
class SDEdit:
    """Noised to t = tau, of num_steps a share of tau down from there; at tau = 1 nothing of the picture is left."""

    model: LatentDiffusion
    num_steps: int = 50

    def check(self, w: float, tau: float) -> None:
        """Every setting will do."""

    @torch.no_grad()
    def __call__(self, edits: Edits, seed: int = 0) -> Edited:
        model, denoiser = self.model, sparing(self.model)
        data, target = model.latents.encode(edits.image), model.prompts(edits.target)
        noise = PerSampleRng(seed, edits.key, data.device).normal(*data.shape[1:])

        @torch.no_grad()
        def edited(w: float, tau: float) -> Tensor:
            steps = max(1, round(self.num_steps * tau))
            return model.latents.decode(sdedit(denoiser, model.parametrization, data, noise, tau, steps, target, w))

        return edited


def sdedit(
    denoiser: Denoiser,
    parametrization: Parametrization,
    data: Tensor,
    noise: Tensor,
    t: float,
    num_steps: int,
    condition: Condition,
    guidance_scale: float,
) -> Tensor:
    """Edited data [B, ...] from data and noise [B, ...]: to time t and back in num_steps of DDIM."""
    x = parametrization.add_noise(data, noise, time_like(data, t))
    times = even_times(num_steps, t, 0.0)
    return ddim(denoiser, parametrization, x, times, condition, DynamicGuidance(guidance_scale))
