"""Confidence intervals for what an evaluation reports: bootstrap for means, jackknives for distances between sets.

All treat rows as independent draws; rows that follow one another in time make the true interval wider.
"""

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

MOST_DRAWN = 1 << 20  # values of a bootstrap held at once


def bootstrap_mean(values: Tensor, num_draws: int = 1000, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap interval (low, high) for the mean of values [n]; needs n >= 2. Source: Efron 1979."""
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"an interval needs a vector of at least 2 values, got shape {tuple(values.shape)}")
    from scipy.stats import bootstrap  # takes a second to import, which a training run need not wait for

    draws = {"n_resamples": num_draws, "batch": max(1, MOST_DRAWN // len(values)), "rng": seed}
    sample = (values.double().cpu().numpy(),)
    low, high = bootstrap(sample, np.mean, confidence_level=level, method="percentile", **draws).confidence_interval
    return float(low), float(high)


def jackknife_error(statistic: Callable[..., Tensor], *tables: Tensor, num_blocks: int = 10) -> float:
    """Standard error of statistic(*tables) by leaving out each of num_blocks interleaved blocks of rows in turn.

    For statistics that are no means, where resampling with replacement adds bias (a distance sees repeated points).
    Rows 2k and 2k + 1 stay together, so that `point_clouds.cross_halves` keeps its halves. Source: Efron, Stein 1981.
    """
    rows = len(tables[0])
    if rows < 4 * num_blocks:
        raise ValueError(f"{num_blocks} jackknife blocks need at least {4 * num_blocks} rows, got {rows}")
    block = (torch.arange(rows) // 2) % num_blocks
    left_out = [statistic(*(t[(block != b).to(t.device)] for t in tables)) for b in range(num_blocks)]
    values = torch.stack(left_out).double()
    return float(((num_blocks - 1) * values.var(correction=0)).sqrt())


def influence_interval(
    value: float, influence: Tensor, num: int | None = None, variance: float = 0.0, level: float = 0.95
) -> tuple[float, float]:
    """Normal interval (low, high) for what `value` would be on average over other samples, as many as now.

    influence: [n] of each sample on the value, n >= 2 (`frechet_influence`, `kid_influence`, `cmmd_influence`).
    num: samples behind the value, if more than n. variance: of the value besides, such as from random subsets.
    A bias that comes from the number of samples is in both ends, as in the value. Resampling with replacement would
    add that bias a second time. Source: Efron 1982, The Jackknife, the Bootstrap and Other Resampling Plans, Sec. 6.
    """
    if influence.ndim != 1 or len(influence) < 2:
        raise ValueError(f"an interval needs the influences of at least 2 samples, got shape {tuple(influence.shape)}")
    error = math.sqrt(float(influence.double().var()) / (num or len(influence)) + variance)
    margin = NormalDist().inv_cdf((1 + level) / 2) * error
    return value - margin, value + margin
