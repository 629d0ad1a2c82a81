"""FlowEdit among the rivals; Kulikov et al. 2024 (arXiv 2412.08629), as fewstep.editors.flow_edit has it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.fast_edit.captioned import at_size_of
from benchmarks.fast_edit.rivals import Asked, Learning
from fewstep.backbones import LatentDiffusion
from fewstep.diffusion.solvers import even_times
from fewstep.editors.flow_edit import flow_edit, velocities
from fewstep.fast_edit.edit_base import EditBase
from fewstep.rng import PerSampleRng


@dataclass(frozen=True)
class FlowEdit:
    """A rival that learns nothing, on another base than the others: `model`, which knows captions.

    t: the time from which on at strength 1. It is given the complete captions of each picture before and after.
    """

    model: LatentDiffusion
    t: float = 0.6
    num_steps: int = 12
    source_scale: float = 1.5
    target_scale: float = 5.5

    def __call__(self, base: EditBase, sources: Tensor, asked: Asked, seed: int = 0) -> "FlowEdited":
        return FlowEdited(self, asked, seed)


@dataclass
class FlowEdited:
    how: FlowEdit
    asked: Asked
    seed: int
    learning: Learning | None = None

    @property
    def passes(self) -> int:
        """Both answers of classifier-free guidance, of source and target."""
        return 4 * self.how.num_steps

    @torch.no_grad()
    def apply(self, pictures: Tensor, strength: float = 1.0) -> Tensor:
        """strength: of t, at most 1 / t."""
        if not strength:
            return pictures.clamp(-1, 1)
        t = min(1.0, strength * self.how.t)
        before = self.asked.captions_before
        if len(before) < len(pictures):
            raise ValueError(f"{len(before)} captions of {len(pictures)} sources: FlowEdit needs one of each")
        edit = lambda shown, rows: self._edited(shown, rows, t)  # noqa: E731
        return at_size_of(self.how.model.image_size[0], pictures, self.asked.captions, edit)

    def _edited(self, pictures: Tensor, rows: list[int], t: float) -> Tensor:
        model, how = self.how.model, self.how
        told = [texts[row] for texts in (self.asked.captions_before, self.asked.captions) for row in rows]
        condition = model.prompts(told)
        scales = torch.tensor([how.source_scale, how.target_scale]).repeat_interleave(len(rows)).to(pictures.device)
        velocity = velocities(model.denoiser(), model.parametrization, condition, scales)
        data = model.latents.encode(pictures)
        rng = PerSampleRng(self.seed, rows, data.device)
        times = even_times(how.num_steps, t, 0.0)
        draw = lambda: rng.normal(*data.shape[1:])  # noqa: E731
        return model.latents.decode(flow_edit(velocity, model.parametrization, data, times, draw))
