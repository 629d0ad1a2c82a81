"""Means and quantiles of the conditional mixture of inverse_ot.py, in closed form or by bisection of its exact CDF.

Shape legend: B conditions, K components, M·N of the light family, D target dimensions, Q levels.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from fewstep.transport.inverse_ot import Cost, Potential, log_components

HALVINGS = 60  # of the bracket of a quantile: beyond the last place of float64


class Mixture(NamedTuple):
    """π(·|x_i) = Σ_k weight_ik N(mean_ik, Σ_k), with what its marginals need of Σ_k; float64."""

    weight: Tensor  # [B, K], sums to 1
    mean: Tensor  # [B, K, D]
    deviation: Tensor  # [B, K, D], or [K, D] where it does not depend on x


def conditional_mixture(potential: Potential, cost: Cost) -> Mixture:
    """The mixture of Prop. 3.2 of arXiv 2410.02628: means center_n + Σ_n slope_m(x), weights z_mn(x) / Z(x)."""
    weight = log_components(potential, cost).double().flatten(1).softmax(1)
    covariance = potential.covariance
    shift = torch.einsum("nde,bme->bmnd", covariance.dense().double(), cost.slope.double())
    deviation = covariance.variance().double().sqrt().repeat(cost.slope.shape[1], 1)
    return Mixture(weight, (potential.center.double() + shift).flatten(1, 2), deviation)


def mean(mixture: Mixture) -> Tensor:
    """E[y|x] [B, D]."""
    return torch.einsum("bk,bkd->bd", mixture.weight, mixture.mean)


def quantiles(mixture: Mixture, levels: Tensor) -> Tensor:
    """Quantiles [B, Q, D] of every coordinate of y given x, at levels [Q] in (0, 1).

    The quantile of a mixture lies between the smallest and the largest of its components' quantiles.
    """
    levels = levels.double()
    deviation = mixture.deviation.expand_as(mixture.mean)[:, None]  # [B, 1, K, D]
    of_each = mixture.mean[:, None] + deviation * torch.special.ndtri(levels)[:, None, None]  # [B, Q, K, D]
    low, high = of_each.amin(2), of_each.amax(2)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        z = (middle[:, :, None] - mixture.mean[:, None]) / deviation
        below = torch.einsum("bk,bqkd->bqd", mixture.weight, torch.special.ndtr(z)) < levels[:, None]
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2
