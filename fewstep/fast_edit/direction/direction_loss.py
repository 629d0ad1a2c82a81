"""How far a picture moved in the wrong direction of a CLIP's embedding space.

Gal et al. 2022 (StyleGAN-NADA); Kim et al. 2022 (DiffusionCLIP), Eq. 10. The logarithm is in DiffusionCLIP's code only.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from fewstep.choices import require_choice

Form = Literal["log", "bare"]
OFFSET = 0.05  # true edits of small pictures move their embedding by 0.25 to 1
LEAST_SHARE = 1e-3  # of (1 + cos) / 2, below which the logarithm goes on as its tangent


def direction_loss(
    edit: Tensor, reference: Tensor, direction: Tensor, form: Form = "log", offset: float = OFFSET
) -> Tensor:
    """edit, reference: unit vectors [..., D] of edited and unedited pictures; direction: unit vector [D] -> [...].

    With cos of `image_direction` and `direction`, "bare" is 1 - cos in [0, 2] and "log" is -log((1 + cos) / 2), from 0
    up to 7.9: opposite directions weigh more, and its slope in cos never exceeds 500.
    """
    require_choice("form", form, ("log", "bare"))
    cosine = (image_direction(edit, reference, offset) * direction).sum(-1)
    if form == "bare":
        return 1 - cosine
    share = (1 + cosine) / 2
    tangent = 1 - math.log(LEAST_SHARE) - share / LEAST_SHARE
    return torch.where(share > LEAST_SHARE, -share.clamp(min=LEAST_SHARE).log(), tangent)


def image_direction(edit: Tensor, reference: Tensor, offset: float = OFFSET) -> Tensor:
    """d / sqrt(|d|^2 + offset^2) for d = edit - reference [..., D]: nearly a unit vector once |d| is a few offsets.

    A picture that is its own reference has d = 0 (the reference a frozen estimate, at the first step). Its cosine is
    then 0, and the gradient is that of the un-normalised -<d, direction> / offset: finite, and towards the direction.
    """
    difference = edit - reference
    return difference * (difference.square().sum(-1, keepdim=True) + offset**2).rsqrt()
