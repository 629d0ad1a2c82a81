"""Several views of a picture, the same ones of edit and source: a change that only one view shows is not an edit.

Liu et al. 2021 (FuseDream) average CLIP over augmentations so that it cannot be satisfied by adversarial texture.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep.augmentation import Augmentation
from fewstep.choices import require_range
from fewstep.rng import PerSampleRng


@dataclass(frozen=True)
class Views:
    """`count` views: the picture as it is, then changed ones.

    Every picture and view draws its own changes, noise included, from the seed and its place in the batch: the same
    seed shows source and edit under the same changes. augmentation: in pixels of the picture, so larger ones want more;
    the default is for 64. flip: mirror each changed view with probability 1/2; not for edits of a side.

    Cost: with a frozen CLIP of V per forward pass, the edit takes 2 V `count` (forward, and back to the pixels) and the
    changed views of the source V (`count` - 1), as they differ from step to step; only the plain view of a source can
    be kept. 4 views cost 11 V instead of 2 V.
    """

    count: int = 4
    augmentation: Augmentation = Augmentation(shift=2, scale=0.05, blur=1.0, contrast=0.1, noise=0.1)
    flip: bool = False

    def __post_init__(self) -> None:
        require_range("views.count", self.count, 1)
        if self.count > 1 and not self.flip and self.augmentation == Augmentation():
            raise ValueError(f"views.count={self.count}: all views are alike; give an augmentation, or a count of 1")

    def __call__(self, pictures: Tensor, seed: int) -> Tensor:
        """Pictures [B, C, H, W] in [-1, 1] -> views [count, B, C, H, W] in [-1, 1], the first unchanged."""
        return torch.cat([pictures[None], self.changed(pictures, seed)])

    def changed(self, pictures: Tensor, seed: int) -> Tensor:
        """The views [count - 1, B, C, H, W] without the first."""
        views = [self._changed(pictures, view, seed) for view in range(1, self.count)]
        return torch.stack(views) if views else pictures.new_empty(0, *pictures.shape)

    def _changed(self, pictures: Tensor, view: int, seed: int) -> Tensor:
        rng = PerSampleRng(seed, [f"view {view} of {row}" for row in range(len(pictures))], pictures.device)
        if self.flip:
            mirrored = rng.uniform() < 0.5
            pictures = torch.where(mirrored[:, None, None, None], pictures.flip(-1), pictures)
        return self.augmentation(pictures, rng)
