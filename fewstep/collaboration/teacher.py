"""The teacher at work: from noise, or on from a draft or another picture that is taken back towards noise."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fewstep.backbones import LatentDiffusion, has_guidance_embedding
from fewstep.backbones.diffusers_solvers import NAMES, DiffusersSolver
from fewstep.choices import require_choice, require_range
from fewstep.collaboration.rollback import Rollback
from fewstep.diffusion.guidance import Condition, Denoiser, DynamicGuidance, require_trained
from fewstep.diffusion.solvers import ddim, dpm_solver, even_times, time_like
from fewstep.distillation.students import unscaled

SOLVERS: dict[str, Callable[..., Tensor]] = {
    "ddim": ddim,
    "dpm_solver": dpm_solver,
    **{name: DiffusersSolver(name) for name in NAMES},
}


@dataclass(frozen=True)
class Teacher:
    """A diffusion model in num_steps steps of a solver: "dpm_solver", "ddim", or "unipc" and others of diffusers.

    guidance_scale: w; 1 is unguided and costs one pass a step, as does any scale of a network with an embedding of w.
    """

    model: LatentDiffusion
    num_steps: int = 10
    guidance_scale: float = 8.0
    solver: str = "dpm_solver"

    def __post_init__(self) -> None:
        require_range("teacher steps", self.num_steps, 1)
        require_range("teacher guidance_scale", self.guidance_scale)
        require_choice("solver", self.solver, SOLVERS)
        if has_guidance_embedding(self.model.network) and self.model.guidance_scales:
            require_trained(self.guidance_scale, self.model.guidance_scales)

    @cached_property
    def denoiser(self) -> Denoiser:
        if self.guidance_scale == 1:
            return unscaled(self.model.network, self.model.parametrization.schedule, self.model.control)
        return self.model.denoiser()

    @property
    def passes(self) -> int:
        """Of the network, for one picture; classifier-free guidance counts twice."""
        twice = self.guidance_scale != 1 and not has_guidance_embedding(self.model.network)
        return self.num_steps * (2 if twice else 1)

    def generate(self, noise: Tensor, condition: Condition) -> Tensor:
        """Latents [B, C, h, w] from noise [B, C, h, w] at t = 1."""
        return self._solve(noise, condition, 1.0)

    def refine(self, draft: Tensor, noise: Tensor, condition: Condition, rollback: Rollback) -> Tensor:
        """Latents [B, C, h, w] from those of a draft with fresh noise [B, C, h, w]; all num_steps lie on [0, t]."""
        start = rollback.time(self.model.parametrization.schedule)
        return self._solve(
            self.model.parametrization.add_noise(draft, noise, time_like(draft, start)), condition, start
        )

    @torch.no_grad()
    def _solve(self, x: Tensor, condition: Condition, start: float) -> Tensor:
        times, guidance = even_times(self.num_steps, start, 0.0), DynamicGuidance(self.guidance_scale)
        return SOLVERS[self.solver](self.denoiser, self.model.parametrization, x, times, condition, guidance)
