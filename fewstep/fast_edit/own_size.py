"""Pictures of any size, edited at the size that the base knows: what differs is enlarged and added."""

import torch
from torch import Tensor
from torch.nn import functional as F

from fewstep.fast_edit.application import Application, Edits, apply_edit
from fewstep.fast_edit.edit_base import EditBase
from fewstep.fast_edit.tuned import Tuned
from fewstep.rng import PerSampleRng

LONGEST_ASPECT = 4
SAME = 1 / 255  # half a grey level


def edit_at_own_size(
    tuned: Tuned, pictures: Tensor, edits: Edits, rng: PerSampleRng | None, how: Application
) -> Tensor:
    """Edited pictures [B, 3, H, W] in [-1, 1], of the size of `pictures`, which any may be; see `apply_edit`.

    They are shown to the base at `shown_size`; drawings that were enlarged by whole pixels stay such. Details that the
    size hides from it stay as they were, so `how` needs `residual`, and what is changed is no sharper than the base
    draws. ValueError in one line.
    """
    if not how.residual:
        raise ValueError("without residual, pictures are decoded at the size of the base; crop them to its shape")
    own = tuple(pictures.shape[2:])
    shown = shown_to(tuned.base, pictures)
    if shown.shape == pictures.shape:
        return apply_edit(tuned, pictures, edits, rng, how)
    difference = apply_edit(tuned, shown, edits, rng, how) - shown
    lost = (F.interpolate(shown, own, mode="nearest") - pictures).abs().flatten(1).amax(1)  # of each by itself
    blocks, smooth = (F.interpolate(difference, own, mode=mode) for mode in ("nearest", "bilinear"))
    return (pictures + torch.where((lost < SAME)[:, None, None, None], blocks, smooth)).clamp(-1, 1)


def shown_to(base: EditBase, pictures: Tensor) -> Tensor:
    """Pictures [B, 3, H, W] of any size as whole ones of `shown_size`."""
    own = pictures.shape[2], pictures.shape[3]
    size = shown_size(own, base)
    if own == size:
        return pictures
    shrinks = own[0] >= size[0] and own[1] >= size[1]
    return F.interpolate(pictures, size, mode="area" if shrinks else "bilinear")


def shown_size(size: tuple[int, int], base: EditBase) -> tuple[int, int]:
    """(height, width) of about as many pixels as the base was trained on, for pictures of this (height, width).

    Of their aspect, as far as the base takes it: both are multiples of its factor. ValueError in one line for pictures
    more than 4 times as long as wide.
    """
    height, width = size
    if max(size) > LONGEST_ASPECT * min(size):
        raise ValueError(f"a picture of {height} x {width} pixels is too long for a model of squares; crop it")
    scale = (base.sample_size[0] * base.sample_size[1] / (height * width)) ** 0.5 / base.factor
    return max(1, round(height * scale)) * base.factor, max(1, round(width * scale)) * base.factor
