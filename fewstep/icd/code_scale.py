"""How large codes are: the number that noise is multiplied by to be what a decoder has learnt to read.

Losses that encode and decode again are as small for codes s z and a decoder that expects them, so a trained pair
settles on a scale s of its own, often below 1. What is drawn from noise must start from noise of that scale. Of all
N(0, s^2 I) the nearest to the distribution p of codes in d dimensions is that of the least KL(p, N(0, s^2 I)), which is
d log s + E|z|^2 / (2 s^2) and a constant, and least at

    s^2 = E|z|^2 / d,

so s is the root of the mean square over all elements of all codes. It is the root of the mean, no mean of roots, and
nothing is subtracted before, as what is drawn has mean 0. The length of s n is s sqrt(d) up to a share of about
1 / sqrt(2 d): what is drawn lies at the distance from 0 at which codes lie. One number per channel or element would fit
p closer, but would also bring the training pictures' own colours and shapes into every drawing.
"""

import math
from typing import Any

from torch import Tensor

from fewstep.choices import require_range
from fewstep.files.plain_reader import refuse

LEAST, MOST = 0.01, 100.0  # a pair beyond these has lost its codes


def mean_square(code: Tensor) -> Tensor:
    """Over the elements of each code [B, ...], [B], in float32."""
    return code.float().square().flatten(1).mean(1)


def scale_of_codes(total: float, rows: float) -> float | None:
    """s of codes whose mean squares add up to `total`; None where it would be no number from LEAST to MOST."""
    square = total / rows if rows else math.nan
    return math.sqrt(square) if LEAST**2 <= square <= MOST**2 else None


def code_scale(value: Any, name: str) -> None:
    """A reader of fewstep.files.plain_reader: an export or a checkpoint may come from anybody."""
    if type(value) not in (int, float) or not LEAST <= value <= MOST:
        refuse(value, name, f"a number from {LEAST:g} to {MOST:g}")


def require_noise_scale(value: float | None) -> None:
    """ValueError in one line unless it is None or such a number."""
    if value is not None:
        require_range("noise_scale", value, LEAST, MOST)
