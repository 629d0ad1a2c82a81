"""Pixels optimised under the loss of an edit: the adversarial control of fewstep.fast_edit.audit.pixel_control."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from benchmarks.fast_edit.rivals import AT_ONCE, Asked, Learning
from fewstep.fast_edit.audit.pixel_control import optimise_pixels
from fewstep.fast_edit.edit_base import EditBase
from fewstep.fast_edit.learning import content_sha256


@dataclass(frozen=True)
class Pixels:
    """A rival that learns nothing and asks no diffusion model: what it reaches, a score alone cannot tell apart."""

    steps: int = 30
    lr: float = 0.03

    def __call__(self, base: EditBase, sources: Tensor, asked: Asked, seed: int = 0) -> "PixelEdit":
        return PixelEdit(self, asked, seed)


@dataclass
class PixelEdit:
    how: Pixels
    asked: Asked
    seed: int
    learning: Learning | None = None
    passes: int = 0
    _known: dict[str, Tensor] = field(default_factory=dict)  # of other strengths of the same pictures

    def apply(self, pictures: Tensor, strength: float = 1.0) -> Tensor:
        key = content_sha256(pictures)
        if key not in self._known:
            parts = pictures.split(AT_ONCE)
            made = [optimise_pixels(self.asked.loss, part, self.how.steps, self.how.lr, self.seed) for part in parts]
            self._known = {key: torch.cat(made)}
        return (pictures + strength * (self._known[key] - pictures)).clamp(-1, 1)
