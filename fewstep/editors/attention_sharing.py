"""Prompt-to-prompt: after DDIM inversion, source and target are decoded together and share attention for a while."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fewstep.backbones import LatentDiffusion
from fewstep.diffusion.guidance import DynamicGuidance
from fewstep.distillation.boundaries import Boundaries
from fewstep.editors.ddim_inversion import invert
from fewstep.editors.edits import Edited, Edits
from fewstep.editors.sparing_guidance import sparing
from fewstep.icd.attention_control import attention_control
from fewstep.icd.editing import Editing, edit
from fewstep.icd.prompt_to_prompt import PromptToPrompt


@dataclass(frozen=True)
class AttentionSharing:
    """Hertz et al. 2022. cross_share, self_share: of the steps, in the values that PIE-Bench runs it with.

    amplify: factor on the attention to the target's blend word, where the edit names one; then latents change only
    where that or the source's is attended to.
    """

    model: LatentDiffusion
    num_steps: int = 50
    cross_share: float = 0.4
    self_share: float = 0.6
    amplify: float = 2.0

    def check(self, w: float, tau: float) -> None:
        """Every setting will do."""

    def plan(self, edits: Edits) -> PromptToPrompt:
        editing = Editing("prompt_to_prompt", cross_share=self.cross_share, self_share=self.self_share)
        plan = editing.prompt_to_prompt(self.model, edits.source, edits.target, self.num_steps)
        blend = [_found(*each) for each in zip(edits.blend, edits.source, edits.target, strict=True)]
        if not any(blend):
            return plan
        factors = [{words[1]: self.amplify} if words else {} for words in blend]
        wanted = [((words[0],), (words[1],)) if words else None for words in blend]
        return replace(plan, equaliser=factors, blend_words=wanted)

    @torch.no_grad()
    def __call__(self, edits: Edits, seed: int = 0) -> Edited:
        model, ends, denoiser = self.model, Boundaries.even(self.num_steps, self.num_steps, 0.0), sparing(self.model)
        data, plan = model.latents.encode(edits.image), self.plan(edits)
        source, target = model.prompts(edits.source), model.prompts(edits.target)
        states = invert(denoiser, model.parametrization, ends.encode_times, data, source)

        @torch.no_grad()
        def edited(w: float, tau: float) -> Tensor:
            with attention_control(model.network, plan) as control:
                found = edit(
                    denoiser, model.parametrization, ends, data, states, source, target, DynamicGuidance(w, tau),
                    control=control,
                )  # fmt: skip
            return model.latents.decode(found)

        return edited


def _found(words: tuple[str, str] | None, source: str, target: str) -> tuple[str, str] | None:
    """The pair where both prompts hold their word; a benchmark's annotation may be of another wording."""
    return words if words and words[0] in source.split() and words[1] in target.split() else None
