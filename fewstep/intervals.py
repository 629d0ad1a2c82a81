"""Confidence intervals for what an evaluation reports: bootstrap for means, jackknife for distances between clouds.

Both treat rows as independent draws; rows that follow one another in time make the true interval wider.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def bootstrap_mean(values: Tensor, num_draws: int = 1000, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap interval (low, high) for the mean of values [n]; needs n >= 2. Source: Efron 1979."""
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"an interval needs a vector of at least 2 values, got shape {tuple(values.shape)}")
    values = values.double().cpu()
    rng = torch.Generator().manual_seed(seed)
    draws = (torch.randint(len(values), values.shape, generator=rng) for _ in range(num_draws))
    means = torch.stack([values[rows].mean() for rows in draws])
    low, high = means.quantile(torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)).tolist()
    return low, high


def jackknife_error(statistic: Callable[..., Tensor], *tables: Tensor, num_blocks: int = 10) -> float:
    """Standard error of statistic(*tables) by leaving out each of num_blocks interleaved blocks of rows in turn.

    For statistics that are no means, where resampling with replacement adds bias (a distance sees repeated points).
    Rows 2k and 2k + 1 stay together, so that `two_sample.cross_halves` keeps its halves. Source: Efron and Stein 1981.
    """
    rows = len(tables[0])
    if rows < 4 * num_blocks:
        raise ValueError(f"{num_blocks} jackknife blocks need at least {4 * num_blocks} rows, got {rows}")
    block = (torch.arange(rows) // 2) % num_blocks
    left_out = [statistic(*(t[(block != b).to(t.device)] for t in tables)) for b in range(num_blocks)]
    values = torch.stack(left_out).double()
    return float(((num_blocks - 1) * values.var(correction=0)).sqrt())
