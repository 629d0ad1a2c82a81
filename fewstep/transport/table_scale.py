"""Location and scale of a table's columns, and what is said of those that are constant or have heavy tails."""

import torch
from torch import Tensor

FAR = 20.0  # deviations from the median: heavy tails
SMALLEST_SHARE = 1 / 20  # of the deviation: the least that the scale of heavy tails may be
NORMAL_RANGE = 1.349  # interquartile range of a standard normal


def scale_of(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Median and scale [D] of rows [N, D]: the deviation, or less where a few far values make it."""
    rows = rows.double()
    quartiles = rows.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=rows.dtype), dim=0)
    deviation = rows.std(0, correction=0)
    scale = torch.maximum((quartiles[2] - quartiles[0]) / NORMAL_RANGE, SMALLEST_SHARE * deviation)
    return quartiles[1], torch.minimum(scale, deviation)


def check_table(x: Tensor, y: Tensor) -> None:
    """ValueError in one line for a column of y that is constant, but for rounding, or a value that is not finite."""
    for side, rows in (("x", x), ("y", y)):
        if not rows.isfinite().all():
            raise ValueError(f"{side} holds a value that is not finite; leave such rows out")
    spread, size = y.double().std(0, correction=0), y.double().abs().amax(0)
    if len(constant := (spread <= 4 * torch.finfo(torch.float32).eps * size).nonzero()):
        column = int(constant[0])
        raise ValueError(f"column {column + 1} of y is {float(y[0, column]):g} throughout; leave it out: it is known")


def far_values(y: Tensor) -> str | None:
    """One line where a column of y [N, D] has heavy tails, None otherwise."""
    shift, scale = scale_of(y)
    away = ((y.double() - shift) / scale.clamp_min(1e-300)).abs().amax(0)
    if away.max() <= FAR:
        return None
    column = int(away.argmax())
    return (
        f"column {column + 1} of y reaches {away[column]:.0f} deviations from its median; its logarithm may be easier"
    )
