"""Pictures brought into [-1, 1] before a CLIP sees them, with a gradient that can only bring them back."""

from typing import Any

import torch
from torch import Tensor


def in_range(pictures: Tensor) -> Tensor:
    """Clamped to [-1, 1], so that colours beyond lower no loss; one-step estimates do go beyond.

    A value outside keeps the gradient whose descent leads it inwards and loses the one that leads it further out. That
    of torch.clamp is 0 for both, and a value that was once outside would be lost to the loss.
    """
    return _Inwards.apply(pictures)


class _Inwards(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pictures: Tensor) -> Tensor:
        clamped = pictures.clamp(-1, 1)
        ctx.save_for_backward(pictures - clamped)
        return clamped

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (beyond,) = ctx.saved_tensors  # 0 inside
        return gradient * (gradient * beyond >= 0)
