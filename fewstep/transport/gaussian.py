"""Linear Gaussian conditionals in closed form: ridge regression on the pairs, and a joint Gaussian that all rows fit.

y | x ~ N(weight x + bias, covariance). Shape legend: P pairs, Q unpaired x, R unpaired y, Dx and Dy dimensions.
Both are chosen by predictions of pairs that were left out, so few pairs make them weaker and not overconfident.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

PENALTIES = tuple(10.0**k for k in (-4, -3, -2.5, -2, -1.5, -1, -0.5, 0, 0.5, 1))  # per pair, for standardised x
PRIOR_ROWS = (0.0, 1.0, 3.0, 10.0, 30.0)  # imagined pairs whose x and y are independent
FOLDS, MOST_ITERATIONS = 8, 300
TOLERANCE = 1e-5  # of the covariance in standardised units, from one iteration to the next
SMALLEST = 1e-6  # of a variance, as a share of that of y


class LinearGaussian(NamedTuple):
    """y | x ~ N(weight x + bias, covariance); float64."""

    weight: Tensor  # [Dy, Dx]
    bias: Tensor  # [Dy]
    covariance: Tensor  # [Dy, Dy]

    def log_density(self, y: Tensor, x: Tensor) -> Tensor:
        """log N(y_i | weight x_i + bias, covariance) in nats, [B]."""
        factor = torch.linalg.cholesky(self.covariance)
        residual = y.double() - x.double() @ self.weight.T - self.bias
        white = torch.linalg.solve_triangular(factor, residual.T, upper=False)
        return -0.5 * (white.square().sum(0) + y.shape[1] * math.log(2 * math.pi)) - factor.diagonal().log().sum()


def fit_ridge(x: Tensor, y: Tensor) -> LinearGaussian:
    """Ridge regression of y [P, Dy] on x [P, Dx] with one full Gaussian around it.

    The penalty is that of PENALTIES whose leave-one-out residuals (their closed form) have the smallest determinant of
    second moments, and these moments are the covariance: what the prediction misses, not what the fit leaves.
    """
    x, y = x.double(), y.double()
    scale = y.var(0, correction=0).clamp_min(1e-12)
    centre_x, centre_y = x.mean(0), y.mean(0)
    u, s, vt = torch.linalg.svd(x - centre_x, full_matrices=False)
    best: tuple[Tensor, Tensor, Tensor] | None = None
    for penalty in (*PENALTIES, math.inf):
        shrink = s.square() / (s.square() + len(x) * penalty) if penalty < math.inf else torch.zeros_like(s)
        fitted = u @ (shrink[:, None] * (u.T @ (y - centre_y)))
        leverage = (u.square() @ shrink + 1 / len(x)).clamp_max(1 - 1e-6)
        missed = (y - centre_y - fitted) / (1 - leverage)[:, None] if len(x) > 1 else y - centre_y
        moments = missed.T @ missed / len(x) + torch.diag(SMALLEST * scale)
        score = torch.linalg.slogdet(moments)[1]
        if best is None or score < best[0]:
            over = shrink / s.clamp_min(1e-150)
            best = score, vt.T @ (over[:, None] * (u.T @ (y - centre_y))), moments
    assert best is not None
    weight = best[1].T
    return LinearGaussian(weight, centre_y - weight @ centre_x, best[2])


def fit_joint(x: Tensor, y: Tensor, x_unpaired: Tensor, y_unpaired: Tensor) -> LinearGaussian:
    """The conditional of a Gaussian of (x, y) fitted to pairs, x alone and y alone by expectation-maximisation."""
    prior = imagined_pairs(x, y, x_unpaired, y_unpaired)
    return joint_conditionals(x, y, x_unpaired, y_unpaired, torch.ones(1, len(x)), [prior])[0]


def imagined_pairs(x: Tensor, y: Tensor, x_unpaired: Tensor, y_unpaired: Tensor) -> float:
    """How many pairs without correlation between x and y to imagine beside the P: by cross-validation over them."""
    num = len(x)
    order = torch.randperm(num, generator=torch.Generator().manual_seed(0))
    folds = [fold for fold in order.chunk(FOLDS) if len(fold) < num]
    if not folds:
        return PRIOR_ROWS[-1]
    kept = torch.ones(len(folds), num)
    for row, fold in zip(kept, folds, strict=True):
        row[fold] = 0
    several, priors = kept.repeat(len(PRIOR_ROWS), 1), sorted(PRIOR_ROWS * len(folds))
    grid = joint_conditionals(x, y, x_unpaired, y_unpaired, several, priors)
    gained = torch.stack([g.log_density(y[f], x[f]).sum() for g, f in zip(grid, folds * len(PRIOR_ROWS), strict=True)])
    return PRIOR_ROWS[int(gained.view(len(PRIOR_ROWS), -1).sum(1).argmax())]


def joint_conditionals(
    x: Tensor, y: Tensor, x_unpaired: Tensor, y_unpaired: Tensor, used: Tensor, prior: Sequence[float]
) -> list[LinearGaussian]:
    """K models at once, model k of the pairs of weight used [K, P] and of prior[k] imagined pairs.

    Expectation-maximisation from the moments alone: an iteration costs K (Dx + Dy)³, whatever the number of rows.
    """
    x, y, x_unpaired, y_unpaired, used = (rows.double() for rows in (x, y, x_unpaired, y_unpaired, used))
    dim, sides = x.shape[1], (slice(0, x.shape[1]), slice(x.shape[1], None))
    alone = torch.cat([x, x_unpaired]), torch.cat([y, y_unpaired])
    centre = torch.cat([rows.mean(0) for rows in alone])
    unit = torch.cat([rows.std(0, correction=0) for rows in alone]).clamp_min(1e-9)
    floor = SMALLEST * torch.eye(len(unit), dtype=unit.dtype)
    marginal = torch.block_diag(
        *(
            (rows - centre[s]).div(unit[s]).T.cov(correction=0).view(unit[s].shape * 2)
            for rows, s in zip(alone, sides, strict=True)
        )
    )
    pairs = (torch.cat([x, y], 1) - centre) / unit
    imagined = torch.tensor(prior, dtype=unit.dtype)[:, None, None]
    first, second = used @ pairs, torch.einsum("kp,pd,pe->kde", used, pairs, pairs) + imagined * marginal
    known = [(rows - centre[s]) / unit[s] for rows, s in zip((x_unpaired, y_unpaired), sides, strict=True)]
    moments = [(len(rows), rows.sum(0), rows.T @ rows) for rows in known]
    total = used.sum(1) + sum(count for count, _, _ in moments)
    mean, covariance = torch.zeros_like(first), (marginal + floor).expand(len(used), -1, -1)
    for _ in range(MOST_ITERATIONS):
        sum_z, sum_zz = first.clone(), second.clone()
        for (count, s1, s2), seen, hidden in zip(moments, sides, reversed(sides), strict=True):
            gain, offset, rest = conditional(mean, covariance, seen, hidden)
            shift = gain @ s1  # [K, hidden]
            cross = s2 @ gain.mT + s1[:, None] * offset[:, None]
            away = shift[:, :, None] * offset[:, None]
            spread = rest + offset[:, :, None] * offset[:, None]
            sum_z[:, seen] += s1
            sum_z[:, hidden] += shift + count * offset
            sum_zz[:, seen, seen] += s2
            sum_zz[:, seen, hidden] += cross
            sum_zz[:, hidden, seen] += cross.mT
            sum_zz[:, hidden, hidden] += count * spread + away + away.mT + gain @ s2 @ gain.mT
        mean = sum_z / total[:, None]
        new = (sum_zz - sum_z[:, :, None] * mean[:, None]) / (total[:, None, None] + imagined) + floor
        change, covariance = (new - covariance).abs().max(), new
        if change < TOLERANCE:
            break
    gain, offset, rest = conditional(mean, covariance, *sides)
    scale = unit[dim:]
    weight = scale[:, None] * gain / unit[:dim]
    bias = centre[dim:] + scale * offset - weight @ centre[:dim]
    rest = scale[:, None] * rest * scale
    return [LinearGaussian(*one) for one in zip(weight, bias, (rest + rest.mT) / 2, strict=True)]


def conditional(mean: Tensor, covariance: Tensor, seen: slice, hidden: slice) -> tuple[Tensor, Tensor, Tensor]:
    """gain, offset and covariance of hidden | seen ~ N(gain seen + offset, covariance), of K Gaussians at once."""
    gain = torch.linalg.solve(covariance[:, seen, seen], covariance[:, seen, hidden]).mT
    offset = mean[:, hidden] - (gain @ mean[:, seen, None]).squeeze(-1)
    return gain, offset, covariance[:, hidden, hidden] - gain @ covariance[:, seen, hidden]
