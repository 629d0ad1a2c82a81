"""iCD: a distilled pair encodes a picture in a few calls, decodes it under the target's (Starodubcev et al. 2024)."""

from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from fewstep.backbones import LatentDiffusion
from fewstep.diffusion.guidance import require_trained
from fewstep.editors.edits import Edited, Edits
from fewstep.icd.editing import Editing
from fewstep.icd.pair import InvertibleConsistency
from fewstep.rng import PerSampleRng


@dataclass(frozen=True)
class FewStepPair:
    """The target is guided where t <= tau, by a scale that the decoder was trained on.

    backend: as in Editing. late: a prompt switch, the source's prompt until tau. replay: correct the target by what
    decoding the source gets wrong.
    """

    pair: InvertibleConsistency
    backend: Literal["prompt_switch", "prompt_to_prompt"] = "prompt_switch"
    late: bool = False
    replay: bool = False

    @property
    def model(self) -> LatentDiffusion:
        return self.pair.model

    def check(self, w: float, tau: float) -> None:
        require_trained(w, self.pair.guidance_scales)

    def __call__(self, edits: Edits, seed: int = 0) -> Edited:
        editing = Editing(self.backend, replay=self.replay)

        def edited(w: float, tau: float) -> Tensor:
            chosen = replace(editing, guidance_scale=w, guided_below=tau, prompt_below=tau if self.late else 1.0)
            rng = PerSampleRng(seed, edits.key, edits.image.device)
            return self.pair.edit(edits.image, edits.source, edits.target, rng, chosen)

        return edited
