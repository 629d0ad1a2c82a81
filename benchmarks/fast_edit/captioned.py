"""What the rivals share whose base knows captions: they are told complete ones, and see pictures at its size."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.fast_edit.rivals import AT_ONCE

Edit = Callable[[Tensor, list[int]], Tensor]  # [B, 3, H, W] in [-1, 1], and the numbers of these rows -> edited


def at_size_of(side: int, pictures: Tensor, captions: Sequence[str], edit: Edit) -> Tensor:
    """Edited pictures [N, 3, h, w]; small ones are enlarged by whole pixels to `side`, and the answers averaged.

    captions: as many as there are pictures, or more. ValueError in one line.
    """
    if len(captions) < len(pictures):
        raise ValueError(f"{len(captions)} captions for {len(pictures)} pictures: give one of each")
    factor, rest = divmod(side, pictures.shape[2])
    if rest or pictures.shape[2] != pictures.shape[3]:
        told = f"pictures of {pictures.shape[2]} x {pictures.shape[3]} pixels, a model of {side}"
        raise ValueError(f"{told}: give squares whose side divides it")
    shown = pictures.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    rows = [part.tolist() for part in torch.arange(len(pictures)).split(AT_ONCE)]
    return F.avg_pool2d(torch.cat([edit(shown[part], part) for part in rows]), factor).clamp(-1, 1)
