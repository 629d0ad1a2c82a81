"""iCD among the rivals: an exported pair encodes a picture under its caption and decodes it under that of the edit.

Starodubcev et al. 2024 (arXiv 2406.14539), with the words switched and dynamic guidance.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmarks.fast_edit.captioned import at_size_of
from benchmarks.fast_edit.rivals import Asked, Learning
from fewstep.fast_edit.edit_base import EditBase
from fewstep.icd.editing import Editing
from fewstep.icd.pair import InvertibleConsistency
from fewstep.rng import PerSampleRng


@dataclass(frozen=True)
class ICD:
    """A rival that learns nothing here, on another base than the others: students that know captions.

    editing: its guidance scale, one that was trained, is strength 1; None for the largest one.
    """

    pair: InvertibleConsistency
    editing: Editing | None = None

    def __call__(self, base: EditBase, sources: Tensor, asked: Asked, seed: int = 0) -> "ICDEdited":
        most = max(self.pair.guidance_scales)
        return ICDEdited(self.pair, self.editing or Editing(guidance_scale=most), asked, seed)


@dataclass
class ICDEdited:
    pair: InvertibleConsistency
    editing: Editing
    asked: Asked
    seed: int
    learning: Learning | None = None

    @property
    def passes(self) -> int:
        """A call for each segment, up and down; where `editing` replays, the way down of the source as well."""
        ends = self.pair.boundaries
        down = len(ends.decode_times) - 1
        return len(ends.encode_times) - 1 + down * (2 if self.editing.replay else 1)

    @torch.no_grad()
    def apply(self, pictures: Tensor, strength: float = 1.0) -> Tensor:
        """strength: of what guidance adds to 1, by the trained scale next to it; 0 leaves the picture."""
        if not strength:
            return pictures.clamp(-1, 1)
        before = self.asked.captions_before
        if len(before) < len(pictures):
            raise ValueError(f"{len(before)} captions of {len(pictures)} sources: iCD needs one of each")
        wanted = 1 + strength * (self.editing.guidance_scale - 1)
        scale = min(self.pair.guidance_scales, key=lambda trained: abs(trained - wanted))
        editing = replace(self.editing, guidance_scale=scale)

        def edit(shown: Tensor, rows: list[int]) -> Tensor:
            old, new = ([texts[row] for row in rows] for texts in (before, self.asked.captions))
            return self.pair.edit(shown, old, new, PerSampleRng(self.seed, rows, shown.device), editing)

        return at_size_of(self.pair.model.image_size[0], pictures, self.asked.captions, edit)
