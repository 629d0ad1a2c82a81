"""What tells beforehand that the student wins: trends over a covariate, correlations, a regression, an AUC.

All for N pairs of pictures; `won`: bool [N], covariates and scores: [N].
"""

import math
from statistics import NormalDist
from typing import NamedTuple

import torch
from torch import Tensor

from fewstep.collaboration.analysis.wins import Share, share_of

MOST_STEPS = 50  # of Newton's method; it takes about 8 where there is a finite estimate
CERTAIN = 30.0  # log-odds that no data support: some covariate separates wins from losses


class Estimate(NamedTuple):
    """A value with a confidence interval."""

    value: float
    low: float
    high: float


class Group(NamedTuple):
    """Pairs with a covariate from `low` to `high`, and how many of them were won."""

    low: float
    high: float
    won: Share


class Trend(NamedTuple):
    """Groups in rising order of the covariate; z > 0 where wins become more frequent, and its two-sided p."""

    groups: tuple[Group, ...]
    z: float
    p: float


def trend(won: Tensor, covariate: Tensor, num_groups: int = 5, level: float = 0.95) -> Trend:
    """Win rate per quintile, and the test of Cochran 1954 and Armitage 1955 for a linear trend over their numbers.

    Equal values stay together, so there may be fewer groups. ValueError where all values are equal.
    """
    won, values = _checked(won, covariate)
    cuts = torch.arange(1, num_groups, dtype=torch.float64) / num_groups
    edges = torch.quantile(values, cuts, interpolation="lower").unique()
    number = torch.bucketize(values, edges)  # values up to an edge, edges included, lie below it
    _, place, sizes = number.unique(return_inverse=True, return_counts=True)
    if len(sizes) < 2:
        raise ValueError(f"{len(values)} values of a covariate make no two groups, such as {values[0]:g}")
    groups = []
    for group in range(len(sizes)):
        inside = place == group
        part = values[inside]
        groups.append(Group(part.min().item(), part.max().item(), share_of(int(won[inside].sum()), len(part), level)))
    rate, rank = won.double().mean(), place.double()
    spread = (rate * (1 - rate) * (rank - rank.mean()).square().sum()).sqrt()
    z = float((won.double() - rate) @ rank / spread) if spread else 0.0  # all won, or none: no trend
    return Trend(tuple(groups), z, 2 * NormalDist().cdf(-abs(z)))


def spearman(first: Tensor, second: Tensor, level: float = 0.95) -> Estimate:
    """Rank correlation of [N] and [N], N > 3, with the interval of Bonett and Wright 2000."""
    from scipy.stats import spearmanr

    first, second = _numbers(first), _numbers(second)
    for column in (first, second):
        if len(column) < 4 or column.min() == column.max():
            raise ValueError(f"a correlation of {len(column)} values, such as {column[0]:g}; give 4 that differ")
    rho = float(spearmanr(first.numpy(), second.numpy()).statistic)
    if abs(rho) >= 1:
        return Estimate(rho, rho, rho)
    margin = _quantile(level) * math.sqrt((1 + rho**2 / 2) / (len(first) - 3))
    return Estimate(rho, math.tanh(math.atanh(rho) - margin), math.tanh(math.atanh(rho) + margin))


def logistic_regression(won: Tensor, covariates: Tensor, level: float = 0.95) -> tuple[Estimate, ...]:
    """ln odds of a win on covariates [N, F]: the intercept, then what one standard deviation of each adds.

    Maximum likelihood by Newton's method, with Wald intervals. ValueError in one line where there is no finite
    estimate: columns that depend on one another, or that separate wins from losses.
    """
    design = torch.stack([_checked(won, column)[1] for column in covariates.T], 1)
    design = (design - design.mean(0)) / design.std(0, correction=0).clamp(min=1e-300)
    design = torch.cat([torch.ones(len(design), 1, dtype=torch.float64), design], 1)
    if torch.linalg.matrix_rank(design) < design.shape[1]:
        raise ValueError(f"the {design.shape[1] - 1} covariates are constant or depend on one another; leave some out")
    target = won.double().cpu()
    weights = torch.zeros(design.shape[1], dtype=torch.float64)
    for _ in range(MOST_STEPS):
        odds = design @ weights
        chance = odds.sigmoid()
        information = (design * (chance * (1 - chance))[:, None]).T @ design
        if odds.abs().max() > CERTAIN:
            break
        step = torch.linalg.solve(information, design.T @ (target - chance))
        before = _log_likelihood(odds, target)
        while _log_likelihood(design @ (weights + step), target) < before - 1e-9:
            step = step / 2  # the likelihood is concave, so that a part of the step rises
        weights = weights + step
        if step.abs().max() < 1e-9:
            errors = torch.linalg.inv(information).diagonal().sqrt() * _quantile(level)
            columns = (weights, weights - errors, weights + errors)
            return tuple(Estimate(*row) for row in torch.stack(columns, 1).tolist())
    told = f"{int(won.sum())} wins in {len(won)} pairs, which the covariates tell apart: there is no finite estimate"
    raise ValueError(f"{told}; give more pairs, or fewer covariates")


def auc(scores: Tensor, won: Tensor, level: float = 0.95) -> Estimate:
    """The probability that a pair that was won has the higher score of two, equal scores counting half.

    With the interval of DeLong et al. 1988, which has no width where scores tell all apart. ValueError in one line
    for fewer than two won or two lost pairs.
    """
    won, scores = _checked(won, scores)
    yes, no = scores[won].sort().values, scores[~won].sort().values
    if min(len(yes), len(no)) < 2:
        raise ValueError(f"{len(yes)} pairs won and {len(no)} lost have no AUC; at least two of each are needed")
    above, below = _share_below(no, yes), 1 - _share_below(yes, no)
    value, error = above.mean().item(), math.sqrt(above.var() / len(yes) + below.var() / len(no))
    margin = _quantile(level) * error
    return Estimate(value, max(value - margin, 0.0), min(value + margin, 1.0))


def _share_below(sample: Tensor, values: Tensor) -> Tensor:
    """Of a sorted sample, for each value, equal ones counting half."""
    ends = (torch.searchsorted(sample, values, right=right) for right in (False, True))
    return torch.stack(list(ends)).double().mean(0) / len(sample)


def _log_likelihood(odds: Tensor, target: Tensor) -> Tensor:
    return -torch.nn.functional.binary_cross_entropy_with_logits(odds, target, reduction="sum")


def _quantile(level: float) -> float:
    return NormalDist().inv_cdf((1 + level) / 2)


def _checked(won: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    values = _numbers(values)
    if won.shape != values.shape or won.dtype is not torch.bool:
        raise ValueError(f"{len(values)} values with {won.dtype} {list(won.shape)} of who won; give a bool for each")
    return won.cpu(), values


def _numbers(values: Tensor) -> Tensor:
    if values.dim() != 1 or not len(values) or not values.isfinite().all():
        raise ValueError(f"values of shape {list(values.shape)}: needed are N > 0 finite numbers, [N]")
    return values.detach().double().cpu()
