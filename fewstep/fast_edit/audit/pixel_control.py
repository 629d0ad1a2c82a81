"""The adversarial control of edits: pixels that please the loss, without a model that knows what pictures look like."""

import torch
from torch import Tensor

from fewstep.choices import require_range
from fewstep.fast_edit.direction.edit_loss import EditLoss


def optimise_pixels(loss: EditLoss, pictures: Tensor, steps: int = 30, lr: float = 0.03, seed: int = 0) -> Tensor:
    """Pictures [B, 3, H, W] in [-1, 1] -> the same after Adam on their pixels under the loss of an edit.

    A score that these reach as well as edits do says nothing, and an audit that lets them pass is worthless. seed: of
    the loss's views, which are others in every step.
    """
    require_range("steps", steps, 1)
    require_range("lr", lr, above=True)
    known = loss.reference(pictures)
    edit = pictures.detach().clone().requires_grad_(True)
    optimizer = torch.optim.Adam([edit], lr)
    for step in range(steps):
        optimizer.zero_grad()
        loss(edit, pictures, known, seed + step).total.sum().backward()
        optimizer.step()
    return edit.detach().clamp(-1, 1)
