"""How far a value lies from the median of others, in a measure that outliers do not move."""

import torch
from torch import Tensor

NORMAL = 1.4826  # median absolute deviation -> standard deviation of a normal distribution
FLOOR = 1e-3  # smallest scale, relative to the median: a constant history makes no spike of its own rounding


def robust_deviations(values: Tensor, history: Tensor) -> Tensor:
    """(value - median) / (1.4826 MAD) for values [B] given a history [N]; both finite, N >= 1; returns [B].

    Source: Hampel (1974), the median absolute deviation as a scale.
    """
    median = history.median()
    scale = NORMAL * (history - median).abs().median()
    floor = torch.maximum(FLOOR * median.abs(), torch.full_like(median, torch.finfo(history.dtype).tiny))
    return (values - median) / torch.maximum(scale, floor)
