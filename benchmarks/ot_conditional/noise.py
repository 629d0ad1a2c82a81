"""Noise regularisation of conditional density estimators (Rothfuss et al., arXiv 1907.08982)."""

import torch
from torch import Tensor


def blur_pairs(batch: dict[str, Tensor], x_noise: float, y_noise: float) -> dict[str, Tensor]:
    """The batch with Gaussian noise of these standard deviations on the paired x and y; unpaired rows stay.

    A hundred pairs become a hundred kernels, which a flexible net cannot memorise one by one. No
    baseline should go without.
    """
    x, y = batch["x"], batch["y"]
    return {**batch, "x": x + x_noise * torch.randn_like(x), "y": y + y_noise * torch.randn_like(y)}
