"""SDEdit: pictures noised and drawn anew by a model of text to image, told what they shall show; Meng et al. 2022."""

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.fast_edit.captioned import at_size_of
from benchmarks.fast_edit.rivals import Asked, Learning
from fewstep.backbones import LatentDiffusion
from fewstep.editors.sdedit import sdedit
from fewstep.fast_edit.edit_base import EditBase
from fewstep.rng import PerSampleRng


@dataclass(frozen=True)
class SDEdit:
    """A rival that learns nothing, on another base than the others: `model`, which knows captions.

    t: the time that pictures are noised to at strength 1. It is given the complete caption of each edited picture,
    where the others have the edit's texts.
    """

    model: LatentDiffusion
    t: float = 0.6
    num_steps: int = 12
    guidance_scale: float = 3.0

    def __call__(self, base: EditBase, sources: Tensor, asked: Asked, seed: int = 0) -> "SDEdited":
        return SDEdited(self, asked, seed)


@dataclass
class SDEdited:
    how: SDEdit
    asked: Asked
    seed: int
    learning: Learning | None = None

    @property
    def passes(self) -> int:
        """Both answers of classifier-free guidance."""
        return 2 * self.how.num_steps

    @torch.no_grad()
    def apply(self, pictures: Tensor, strength: float = 1.0) -> Tensor:
        """strength: of t, at most 1 / t."""
        if not strength:
            return pictures.clamp(-1, 1)
        t = min(1.0, strength * self.how.t)
        edit = lambda shown, rows: self._drawn(shown, [self.asked.captions[row] for row in rows], rows, t)  # noqa: E731
        return at_size_of(self.how.model.image_size[0], pictures, self.asked.captions, edit)

    def _drawn(self, pictures: Tensor, captions: list[str], rows: list[int], t: float) -> Tensor:
        model, how = self.how.model, self.how
        data, parametrization = model.latents.encode(pictures), model.parametrization
        noise = PerSampleRng(self.seed, rows, data.device).normal(*data.shape[1:])
        condition, scale = model.prompts(captions), how.guidance_scale
        drawn = sdedit(model.denoiser(), parametrization, data, noise, t, how.num_steps, condition, scale)
        return model.latents.decode(drawn)
