"""Editing by text: decode under the target's prompt what was encoded under the source's."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from fewstep.choices import require_choice, require_range
from fewstep.diffusion.guidance import Condition, Denoiser, DynamicGuidance, GuidanceSchedule, unguided
from fewstep.diffusion.predictions import Parametrization
from fewstep.diffusion.solvers import ddim
from fewstep.distillation.boundaries import Boundaries
from fewstep.icd.attention_control import AttentionControl
from fewstep.icd.code_scale import require_noise_scale
from fewstep.icd.difference_guidance import DifferenceGuidance
from fewstep.icd.prompt_alignment import changed_words
from fewstep.icd.prompt_to_prompt import PromptToPrompt


@dataclass(frozen=True)
class Editing:
    """How pictures are edited.

    The paper's way for Stable Diffusion 1.5: backend "prompt_to_prompt", guidance_scale 20, guided_below 0.8,
    cross_share 0.3, self_share 0.6, amplify 4; for SDXL: "prompt_switch", 8, guided_below and prompt_below 0.7.

    Args:
        backend: "prompt_switch" or "prompt_to_prompt"; either with a mask is a masked blend.
        guidance_scale: one of the scales of the network, 1 is unguided; guided_below: the t from which on.
        prompt_below: the t from which on the target's prompt is in force; the source's before.
        replay: correct the target by what decoding the source gets wrong; see fewstep.icd.editing.edit.
        guide_by: "prompt", the paper's, or "difference", which leaves a picture as it is where target and source agree:
            see fewstep.icd.difference_guidance. Three rows for each picture; not with prompt_to_prompt.
        noise_scale: factor of the noise that pictures are drawn from where there is nothing to edit; None for the scale
            of the pair's codes, as far as it was measured, and 1 for N(0, I).
        cross_share, self_share, mode, amplify, blend: of prompt-to-prompt. amplify: factor on the attention to words of
            the target that the source lacks. blend: change pictures only where these words are attended to.
    """

    backend: Literal["prompt_switch", "prompt_to_prompt"] = "prompt_switch"
    guidance_scale: float = 8.0
    guided_below: float = 0.8
    prompt_below: float = 1.0
    replay: bool = False
    cross_share: float = 0.3
    self_share: float = 0.6
    mode: Literal["auto", "replace", "refine"] = "auto"
    amplify: float = 1.0
    blend: bool = False
    guide_by: Literal["prompt", "difference"] = "prompt"
    noise_scale: float | None = None

    def __post_init__(self) -> None:
        if self.backend not in ("prompt_switch", "prompt_to_prompt"):
            raise ValueError(f'backend {self.backend!r} is unknown; choose "prompt_switch" or "prompt_to_prompt"')
        for name in ("guided_below", "prompt_below", "cross_share", "self_share"):
            require_range(name, getattr(self, name), most=1)
        require_range("guidance_scale", self.guidance_scale)
        require_range("amplify", self.amplify)
        require_choice("guide_by", self.guide_by, ("prompt", "difference"))
        require_noise_scale(self.noise_scale)
        if self.guide_by == "difference" and self.backend == "prompt_to_prompt":
            raise ValueError("guide_by='difference' does not share attention; choose the backend prompt_switch")

    @property
    def guidance(self) -> DynamicGuidance:
        return DynamicGuidance(self.guidance_scale, self.guided_below)

    def prompt_to_prompt(
        self, model: Any, source: Sequence[str], target: Sequence[str], num_steps: int
    ) -> PromptToPrompt:
        """The edit of these prompts, source[b] -> target[b]. model: a LatentDiffusion of fewstep.backbones."""
        new = [changed_words(*pair) for pair in zip(source, target, strict=True)]
        old = [changed_words(*pair) for pair in zip(target, source, strict=True)]
        height, width = model.sample_size
        return PromptToPrompt(
            source,
            target,
            model.prompts.tokenizer,
            num_steps,
            self.cross_share,
            self.self_share,
            self.mode,
            equaliser=[dict.fromkeys(words, self.amplify) for words in new],
            blend_words=list(zip(old, new, strict=True)) if self.blend else None,
            self_max_tokens=-(-height // 2) * -(-width // 2),  # as a convolution of stride 2 has it
            length=model.prompts.length,
        )


@torch.no_grad()
def edit(
    reverse: Denoiser,
    parametrization: Parametrization,
    boundaries: Boundaries,
    data: Tensor,
    states: Sequence[Tensor],
    source: Condition,
    target: Condition,
    guidance: GuidanceSchedule = unguided,
    prompt_below: float = 1.0,
    control: AttentionControl | None = None,
    replay: bool = False,
    mask: Tensor | None = None,
    difference: bool = False,
) -> Tensor:
    """Edited data [B, ...] in m calls (Starodubcev et al. 2024, section 3.4 and appendix A).

    data [B, ...] and states: what was encoded, and what `fewstep.icd.inversion.encode` made of it. source, target: each
    [B, ...]. guidance: of the target. The ways of editing may be combined:

    prompt_below: prompt switch. The target's prompt where t <= prompt_below, the source's where there is more noise.
    control: prompt-to-prompt, see attention_control.py. Each call has 2B rows, an unguided source branch first.
    replay: put that source branch back where encoding was, and let the target branch take the same correction, so
        target = source without guidance returns the data (Ju et al. 2023, Direct Inversion, one call per boundary).
    mask: [B, 1, ...] in [0, 1]; where it is 0 the data stay as they are.
    difference: guide by what sets the target apart from the source, see fewstep.icd.difference_guidance; with
        target = source this is the unguided reconstruction. Not together with control.
    """
    known = dict(zip((round(time, 6) for time in boundaries.encode_times), states, strict=True)) | {0.0: data}
    rows, paired = len(data), control is not None or replay
    if difference and control is not None:
        raise ValueError("guidance as a difference does not share attention; edit without attention_control")
    denoiser = DifferenceGuidance(reverse, source, rows) if difference else reverse

    def scales(t: Tensor) -> Tensor:
        return torch.cat([torch.ones_like(t[:-rows]), guidance(t[-rows:])])

    x = torch.cat([states[-1], states[-1]]) if paired else states[-1]
    for number, step in enumerate(pairwise(boundaries.decode_times)):
        prompts = [source] * paired + [target if step[0] <= prompt_below + 1e-6 else source]
        if control is not None:
            control.start(number)
        condition = {key: torch.cat([prompt[key] for prompt in prompts]) for key in target}
        x = ddim(denoiser, parametrization, x, step, condition, scales)
        state = known.get(round(step[1], 6))
        if replay and state is not None:
            plain, edited = x.chunk(2)
            x = torch.cat([state, edited + (state - plain)])
        if control is not None:
            x = control.blend(x)
        if mask is not None and state is not None:
            x = torch.cat([x[:-rows], torch.lerp(state, x[-rows:], mask.to(x))])
    return x[-rows:]
