"""DDIM inversion: encode a picture under its caption, step by step, and decode the code under the target's.

Song et al. 2021 (DDIM). Encoded unguided, as guidance would carry the code away from the noise that decoding expects.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from fewstep.backbones import LatentDiffusion
from fewstep.diffusion.guidance import Condition, Denoiser, DynamicGuidance
from fewstep.diffusion.predictions import Parametrization
from fewstep.diffusion.solvers import ddim
from fewstep.distillation.boundaries import Boundaries
from fewstep.editors.edits import Edited, Edits
from fewstep.editors.sparing_guidance import sparing
from fewstep.icd.editing import edit


@dataclass(frozen=True)
class DDIMInversion:
    """num_steps up from the data and as many down. The target is guided where t <= tau.

    solver: `ddim`, or `fixed_point` for the exact inverse of its way down (Pan et al. 2023; Garibi et al. 2024). late:
    a prompt switch, which decodes under the source's prompt until tau (Starodubcev et al. 2024, appendix A, for SDXL).
    """

    model: LatentDiffusion
    num_steps: int = 50
    solver: Callable[..., Tensor] = ddim
    late: bool = False

    def check(self, w: float, tau: float) -> None:
        """Every setting will do."""

    @torch.no_grad()
    def __call__(self, edits: Edits, seed: int = 0) -> Edited:
        model, ends, denoiser = self.model, Boundaries.even(self.num_steps, self.num_steps, 0.0), sparing(self.model)
        data = model.latents.encode(edits.image)
        source, target = model.prompts(edits.source), model.prompts(edits.target)
        states = invert(denoiser, model.parametrization, ends.encode_times, data, source, self.solver)

        @torch.no_grad()
        def edited(w: float, tau: float) -> Tensor:
            guidance, below = DynamicGuidance(w, tau), tau if self.late else 1.0
            found = edit(denoiser, model.parametrization, ends, data, states, source, target, guidance, below)
            return model.latents.decode(found)

        return edited


def invert(
    denoiser: Denoiser,
    parametrization: Parametrization,
    times: tuple[float, ...],
    data: Tensor,
    condition: Condition,
    solver: Callable[..., Tensor] = ddim,
) -> list[Tensor]:
    """The states [B, ...] at rising `times`, the first of them the data: unguided, without noise."""
    states = [data]
    for step in pairwise(times):
        states.append(solver(denoiser, parametrization, states[-1], step, condition))
    return states
