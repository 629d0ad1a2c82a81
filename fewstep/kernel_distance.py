"""Kernel distances between two sets of features: KID and CMMD, both squared maximum mean discrepancies.

Gretton et al. 2012, A Kernel Two-Sample Test. All compute in float64 on the device of the features.
"""

from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 1024  # rows of a kernel matrix held at once


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


def cmmd(real: Tensor, generated: Tensor, sigma: float = 10.0, scale: float = 1000.0) -> float:
    """CMMD of unit-length CLIP embeddings [n, D] and [m, D], >= 0: `scale` times the biased squared MMD.

    Kernel exp(-||x - y||^2 / (2 sigma^2)). Biased as published (the diagonal is counted), by about
    (1 / n + 1 / m) * scale * (1 - mean kernel), so compare equal n only.
    Source: Jayasumana et al. 2024, Rethinking FID, Eq. 4 and Sec. 5.
    """
    _check(real, generated)
    x, y = real.double(), generated.double()

    def mean_kernel(a: Tensor, b: Tensor) -> Tensor:
        sums = [torch.exp(torch.cdist(rows, b).square() / (-2 * sigma**2)).sum() for rows in a.split(CHUNK)]
        return torch.stack(sums).sum() / (len(a) * len(b))

    return float(scale * (mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y)))


def _check(real: Tensor, generated: Tensor) -> None:
    for name, features in (("real", real), ("generated", generated)):
        if features.ndim != 2 or len(features) < 2:
            raise ValueError(f"{name} features must be [n, D] with n >= 2, got shape {list(features.shape)}")
        if not torch.isfinite(features).all():
            raise ValueError(f"{int((~torch.isfinite(features)).any(1).sum())} {name} features are not finite")
    if real.shape[1] != generated.shape[1]:
        raise ValueError(f"{real.shape[1]} real features against {generated.shape[1]} generated ones: not one network")
