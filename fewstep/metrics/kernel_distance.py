"""Kernel distances between two sets of features: KID and CMMD, both squared maximum mean discrepancies.

Gretton et al. 2012, A Kernel Two-Sample Test. All compute in float64 on the device of the features.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 1024  # rows of a kernel matrix held at once
Kernel = Callable[[Tensor, Tensor], Tensor]  # [n, D], [m, D] -> [n, m]


class KernelDistance(NamedTuple):
    mean: float  # over the subsets: the distance
    std: float  # over the subsets; not its standard error, since subsets overlap


def kid(real: Tensor, generated: Tensor, subsets: int = 100, subset_size: int = 1000, seed: int = 0) -> KernelDistance:
    """Kernel inception distance of features [n, D] and [m, D]: unbiased, so a little negative now and then.

    Kernel (x.y / D + 1)^3, mean over `subsets` random subsets drawn without replacement by `seed`; n, m >= subset_size.
    Source: Binkowski et al. 2018, Demystifying MMD GANs, Sec. 4; the arithmetic is torchmetrics'.
    """
    from torchmetrics.image.kid import poly_mmd  # takes seconds to import, which a training run need not wait for

    _check(real, generated)
    if subsets < 1 or subset_size < 2:
        raise ValueError(f"KID needs subsets >= 1 of subset_size >= 2, got {subsets} of {subset_size}")
    if min(len(real), len(generated)) < subset_size:
        raise ValueError(
            f"KID needs at least subset_size={subset_size} images on either side, got {len(real)} real and "
            f"{len(generated)} generated ones; set subset_size to {min(len(real), len(generated))} or less"
        )
    rng = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(subsets):
        x, y = (side[torch.randperm(len(side), generator=rng)[:subset_size]].double() for side in (real, generated))
        values.append(poly_mmd(x, y))
    result = torch.stack(values)
    return KernelDistance(float(result.mean()), float(result.std(correction=0)))


def kid_influence(real: Tensor, generated: Tensor) -> Tensor:
    """Influence [n] of each sample on the KID of the whole sets, float64 of mean 0, for `intervals.influence_interval`.

    n - 1 times what the KID loses by leaving the sample out, less the mean: the jackknife in closed form.
    Row i of both belongs to sample i (or they are independent), so there are as many: [n, D] each, n >= 3.
    A mean over subsets of the same features varies besides by `KernelDistance.std`^2 / subsets.
    """
    within, across = _sums_with(_cubic, real, generated)
    n, sides = len(within), (real.double(), generated.double())
    own = sum((side.square().mean(1) + 1) ** 3 for side in sides)  # which the unbiased estimate leaves out
    result = 2 * (within - own) / (n - 2) - 2 * across / (n - 1)
    return result - result.mean()


def cmmd(real: Tensor, generated: Tensor, sigma: float = 10.0, scale: float = 1000.0) -> float:
    """CMMD of unit-length CLIP embeddings [n, D] and [m, D], >= 0: `scale` times the biased squared MMD.

    Kernel exp(-||x - y||^2 / (2 sigma^2)). Biased as published (the diagonal is counted), by about
    (1 / n + 1 / m) * scale * (1 - mean kernel), so compare equal n only.
    Source: Jayasumana et al. 2024, Rethinking FID, Eq. 4 and Sec. 5.
    """
    _check(real, generated)
    x, y = real.double(), generated.double()
    same_x, same_y, across = (_row_means(_gaussian(sigma), a, b).mean() for a, b in ((x, x), (y, y), (x, y)))
    return float(scale * (same_x + same_y - 2 * across))


def cmmd_influence(real: Tensor, generated: Tensor, sigma: float = 10.0, scale: float = 1000.0) -> Tensor:
    """Influence [n] of each sample on the CMMD, as `kid_influence`."""
    within, across = _sums_with(_gaussian(sigma), real, generated)
    result = 2 * scale * (within - across) / (len(within) - 1)
    return result - result.mean()


def _sums_with(kernel: Kernel, real: Tensor, generated: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of the kernel over all pairs with sample i, [n] each: within the two sets, and across them."""
    _check(real, generated)
    if len(real) != len(generated) or len(real) < 3:
        raise ValueError(
            "an influence per sample needs as many real as generated ones, 3 or more of each; got "
            f"{len(real)} and {len(generated)}"
        )
    x, y = real.double(), generated.double()
    own = torch.cat([kernel(a[None], b[None])[0] for a, b in zip(x, y, strict=True)])  # in both sums of a row
    within = _row_means(kernel, x, x) + _row_means(kernel, y, y)
    across = _row_means(kernel, x, y) + _row_means(kernel, y, x)
    return len(x) * within, len(x) * across - own


def _cubic(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T / a.shape[1] + 1) ** 3


def _gaussian(sigma: float) -> Kernel:
    return lambda a, b: torch.exp(torch.cdist(a, b).square() / (-2 * sigma**2))


def _row_means(kernel: Kernel, a: Tensor, b: Tensor) -> Tensor:
    """Mean over b [m, D] of kernel(a_i, b), for each row of a [n, D]: [n]."""
    return torch.cat([kernel(rows, b).mean(1) for rows in a.split(CHUNK)])


def _check(real: Tensor, generated: Tensor) -> None:
    for name, features in (("real", real), ("generated", generated)):
        if features.ndim != 2 or len(features) < 2:
            raise ValueError(f"{name} features must be [n, D] with n >= 2, got shape {list(features.shape)}")
        if not torch.isfinite(features).all():
            raise ValueError(f"{int((~torch.isfinite(features)).any(1).sum())} {name} features are not finite")
    if real.shape[1] != generated.shape[1]:
        raise ValueError(f"{real.shape[1]} real features against {generated.shape[1]} generated ones: not one network")
