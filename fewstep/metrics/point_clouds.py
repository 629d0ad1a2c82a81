"""How far apart are two clouds of points? Four answers, each one number for x [n, D] against y [m, D], equal weights.

Which one to read: `wasserstein2` is exact and in the units of the data but costs O(n^3); `sliced_wasserstein2` scales.
Both are biased upwards on finite samples, so read them beside their noise floor (`cross_halves`). `energy_distance` and
`mmd` are unbiased: zero on average for equal distributions, hence a little negative now and then.

All compute in float64 on the device of x. ValueError for shapes that do not fit and for values that are not finite.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

MMD_BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)  # factors of the median distance
CHUNK = 1024  # rows of a distance matrix held at once
MEDIAN_ROWS = 2048  # rows the median heuristic looks at


def wasserstein2(x: Tensor, y: Tensor) -> Tensor:
    """Exact 2-Wasserstein distance: sqrt(min over plans P of sum_ij P_ij ||x_i - y_j||^2), a scalar >= 0.

    In the units of the data. POT's network simplex: O(n^3) time, O(n m) memory; 256 points take 20 ms, 1024 take 0.2 s.
    Source: Peyre and Cuturi, Computational Optimal Transport, Prop. 2.2.
    """
    import ot  # takes 3 s to import, which a training run need not wait for

    x, y = _checked(x, y)
    cost = _distances(x, y).square().cpu().numpy()
    plan, log = ot.emd(ot.unif(len(x)), ot.unif(len(y)), cost, numItermax=10_000_000, log=True)
    if log["warning"] is not None:
        raise ValueError(f"exact transport between {len(x)} and {len(y)} points did not converge: {log['warning']}")
    return torch.tensor(math.sqrt(max(float(np.vdot(plan, cost)), 0.0)), dtype=torch.float64, device=x.device)


def sliced_wasserstein2(x: Tensor, y: Tensor, num_projections: int = 128, seed: int = 0) -> Tensor:
    """Sliced 2-Wasserstein distance: sqrt of the mean over unit directions u of W2^2(<x, u>, <y, u>), a scalar >= 0.

    A shift by a vector d gives about ||d|| / sqrt(D), so values of different dimensions do not compare. The directions
    come from `seed` alone: the same D and seed always mean the same metric. Cost O(num_projections n log n).
    Source: Bonneel et al. 2015, computed by POT.
    """
    import ot

    x, y = _checked(x, y)
    directions = torch.from_numpy(np.random.default_rng(seed).standard_normal((x.shape[1], num_projections))).to(x)
    directions = directions / directions.norm(dim=0)
    return ot.sliced_wasserstein_distance(x, y, projections=directions, p=2)


def energy_distance(x: Tensor, y: Tensor) -> Tensor:
    """Squared energy distance 2 E||X - Y|| - E||X - X'|| - E||Y - Y'||, in the units of the data (no root is taken).

    The unbiased U-statistic: the within means leave out a point's distance to itself. Zero on average when the
    distributions agree, so slightly negative now and then; positive in the limit when they differ. Needs n, m >= 2;
    O((n + m)^2) time.
    Source: Szekely and Rizzo 2013, Eq. 2.
    """
    x, y = _checked(x, y, least=2)
    within_x = _pair_sum(_distances, x, x) / (len(x) * (len(x) - 1))
    within_y = _pair_sum(_distances, y, y) / (len(y) * (len(y) - 1))
    return 2 * _pair_sum(_distances, x, y) / (len(x) * len(y)) - within_x - within_y


def mmd(x: Tensor, y: Tensor) -> Tensor:
    """Squared maximum mean discrepancy, unbiased, under the mean of five Gaussian kernels; dimensionless, at most 2.

    k(a, b) = mean over c in (1/4, 1/2, 1, 2, 4) of exp(-||a - b||^2 / (2 (c h)^2)), with h the median distance between
    the pooled points (at most 2048 of them, evenly spaced). Slightly negative now and then. Needs n, m >= 2;
    O((n + m)^2) time. Source: Gretton et al. 2012, Eq. 3 and Sec. 8 (median heuristic).
    """
    x, y = _checked(x, y, least=2)
    scale = _median_distance(torch.cat([x, y]))
    if scale == 0:  # all points coincide
        return x.new_zeros(())

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        squared = _distances(a, b).square() / scale**2
        return sum((torch.exp(squared / (-2 * c**2)) for c in MMD_BANDWIDTHS), torch.zeros_like(squared)) / 5

    # k(a, a) = 1: the diagonal contributes n, which the unbiased estimate leaves out.
    within_x = (_pair_sum(kernel, x, x) - len(x)) / (len(x) * (len(x) - 1))
    within_y = (_pair_sum(kernel, y, y) - len(y)) / (len(y) * (len(y) - 1))
    return within_x + within_y - 2 * _pair_sum(kernel, x, y) / (len(x) * len(y))


def cross_halves(distance: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """A distance between samples x and truth y [n, D], row for row at the same conditions, and its noise floor.

    Returns (d, floor): d is the mean of distance(even rows of x, odd rows of y) and distance(odd rows of x, even rows
    of y); floor is distance(even rows of y, odd rows of y). A perfect sampler has E[d] = E[floor] exactly, whatever the
    bias of the distance and the order of the conditions: its rows may be exchanged for the true ones. Needs n >= 4.
    """
    x, y = _checked(x, y, least=4)
    if len(x) != len(y):
        raise ValueError(f"samples and truth must come row for row, got {len(x)} and {len(y)} rows")
    value = (distance(x[::2], y[1::2]) + distance(x[1::2], y[::2])) / 2
    return value, distance(y[::2], y[1::2])


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """[len(a), len(b)]. The matrix-product shortcut would leave equal points up to 1e-8 of their norm apart."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _pair_sum(f: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
    """Sum of f over all pairs of rows, a chunk of rows at a time."""
    return torch.stack([f(rows, b).sum() for rows in a.split(CHUNK)]).sum()


def _median_distance(points: Tensor) -> Tensor:
    """Median distance between different rows; the mean where more than half of the rows coincide."""
    points = points[:: max(1, math.ceil(len(points) / MEDIAN_ROWS))]
    distances = torch.pdist(points)
    median = distances.median()
    return median if median > 0 else distances.mean()


def _checked(x: Tensor, y: Tensor, least: int = 1) -> tuple[Tensor, Tensor]:
    for name, points in (("x", x), ("y", y)):
        if points.ndim != 2 or len(points) < least or points.shape[1] == 0:
            raise ValueError(f"{name} must be [n, D] with n >= {least} and D >= 1, got shape {tuple(points.shape)}")
        if not torch.isfinite(points).all():
            row = int((~torch.isfinite(points)).any(dim=1).nonzero()[0])
            raise ValueError(f"{name} holds a value that is not finite (row {row}); drop or repair such rows first")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"x has {x.shape[1]} columns and y has {y.shape[1]}; both clouds must live in the same space")
    return x.detach().double(), y.detach().to(x.device).double()
