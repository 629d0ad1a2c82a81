"""Null-prompt inversion: guided away from the source's prompt instead of the empty one, which undoes no inversion.

Miyake et al. 2023 (Negative-prompt Inversion): decoding its own source is then unguided whatever w is.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep.backbones import DiffusersDenoiser, LatentDiffusion
from fewstep.diffusion.guidance import ClassifierFree, Condition, Denoiser, DynamicGuidance, Network
from fewstep.diffusion.solvers import ddim, even_times
from fewstep.editors.ddim_inversion import invert
from fewstep.editors.edits import Edited, Edits
from fewstep.editors.sparing_guidance import require_plain, sparing


@dataclass(frozen=True)
class NullPrompt:
    """num_steps of DDIM up and down; away from the source's prompt where t <= tau, unguided before."""

    model: LatentDiffusion
    num_steps: int = 50

    def __post_init__(self) -> None:
        require_plain(self.model, "null_prompt")

    def check(self, w: float, tau: float) -> None:
        """Every setting will do."""

    @torch.no_grad()
    def __call__(self, edits: Edits, seed: int = 0) -> Edited:
        model, times = self.model, even_times(self.num_steps)
        source, target = model.prompts(edits.source), model.prompts(edits.target)
        data, parametrization = model.latents.encode(edits.image), model.parametrization
        code = invert(sparing(model), parametrization, times, data, source)[-1]
        denoiser = null_prompt(DiffusersDenoiser(model.network, parametrization.schedule, model.control).network)

        @torch.no_grad()
        def edited(w: float, tau: float) -> Tensor:
            condition = with_null(target, source)
            found = ddim(denoiser, parametrization, code, times[::-1], condition, DynamicGuidance(w, tau))
            return model.latents.decode(found)

        return edited


def with_null(condition: Condition, null: Condition) -> Condition:
    """A condition [N, ...] for the denoiser of `null_prompt`: it stays beside its null when rows are split."""
    return {**condition, **{f"null_{name}": value.expand_as(condition[name]) for name, value in null.items()}}


def null_prompt(network: Network) -> Denoiser:
    """Classifier-free guidance away from a prompt of each row's own, in conditions that `with_null` has made."""

    def denoiser(x: Tensor, t: Tensor, guidance_scale: Tensor, condition: Condition) -> Tensor:
        plain = {name: value for name, value in condition.items() if not name.startswith("null_")}
        null = {name: condition[f"null_{name}"] for name in plain}
        return ClassifierFree(network, null)(x, t, guidance_scale, plain)

    return denoiser
