"""The Fréchet distance between two sets of features, each taken as a Gaussian.

Heusel et al. 2017, GANs Trained by a Two Time-Scale Update Rule, Eq. 6; on the FID Inception's features it is the FID.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fewstep.one_line import one_line

BUFFERED_ROWS = 512  # a product of that many rows at once costs a fifth of products of 32
CHUNK = 1024  # rows taken to float64 at once


class Gaussian(NamedTuple):
    """mean [D], covariance [D, D] in float64; num: of the samples behind them, 0 if unknown."""

    mean: Tensor
    covariance: Tensor
    num: int = 0


class FeatureMoments:
    """Mean and covariance of features that come in batches; memory 8 D^2 bytes, however many there are.

    The sums are float64, so neither the order nor the split into batches or processes shows (relative 1e-12).
    """

    def __init__(self, num_features: int, device: torch.device | str = "cpu") -> None:
        # Apple's GPUs have no float64.
        device = "cpu" if torch.device(device).type == "mps" else device
        self.num = torch.zeros((), dtype=torch.float64, device=device)
        self.sum = torch.zeros(num_features, dtype=torch.float64, device=device)
        self.outer_sum = torch.zeros(num_features, num_features, dtype=torch.float64, device=device)
        self._buffer: list[Tensor] = []

    def add(self, features: Tensor) -> None:
        """features [B, D], of any floating point type; B may be 0."""
        if features.ndim != 2 or features.shape[1] != len(self.sum):
            raise ValueError(f"features must be [B, {len(self.sum)}], got {list(features.shape)}")
        self._buffer.append(features.detach())
        if sum(map(len, self._buffer)) >= BUFFERED_ROWS:
            self._flush()

    def sums(self) -> tuple[Tensor, Tensor, Tensor]:
        """(count [], sum [D], sum of outer products [D, D]), float64: adding those of all processes gives the whole."""
        self._flush()
        return self.num, self.sum, self.outer_sum

    def gaussian(self) -> Gaussian:
        """The moments so far; the covariance divides by n - 1, so n >= 2 is needed."""
        num, total, outer = self.sums()
        if num < 2:
            raise ValueError(f"a Fréchet distance needs at least 2 images on either side, got {int(num)}")
        mean = total / num
        return Gaussian(mean, (outer - num * torch.outer(mean, mean)) / (num - 1), int(num))

    def _flush(self) -> None:
        if self._buffer:
            rows = torch.cat(self._buffer).to(self.sum)
            self._buffer = []
            self.num += len(rows)
            self.sum += rows.sum(0)
            self.outer_sum.addmm_(rows.T, rows)


def frechet_distance(real: Gaussian, generated: Gaussian) -> float:
    """||mean difference||^2 + tr(A) + tr(B) - 2 tr sqrt(A B) >= 0 up to rounding; A, B are the covariances.

    Singular covariances, which n <= D samples always give, need no offset on the diagonal: tr sqrt(A B) is the sum of
    the singular values of sqrt(A) sqrt(B), and sqrt(A) is taken on the directions in which A is not zero within float64
    (relative D * 2e-16). A is that of the smaller set, so that no eigenvalue of the product is noise around zero.
    """
    for name, side in (("real", real), ("generated", generated)):
        if not (torch.isfinite(side.mean).all() and torch.isfinite(side.covariance).all()):
            raise ValueError(f"the {name} features have a mean or covariance that is not finite")
    if real.mean.shape != generated.mean.shape:
        raise ValueError(
            f"{len(real.mean)} real features against {len(generated.mean)} generated ones: not one network"
        )
    if generated.num and generated.num < (real.num or generated.num + 1):
        real, generated = generated, real  # the distance is symmetric
    a, b = (side.covariance.to(real.mean) for side in (real, generated))
    vectors, values = _spectrum(a)
    root = vectors * values.sqrt()
    cross = torch.linalg.eigvalsh(root.T @ b @ root).clamp(min=0).sqrt().sum()
    squared = (real.mean - generated.mean.to(real.mean)).square().sum()
    return float(squared + a.trace() + b.trace() - 2 * cross)


def frechet_influence(
    real: Gaussian, generated: Gaussian, generated_rows: Tensor, real_rows: Tensor | None = None
) -> Tensor:
    """Influence [n] of each sample on the distance, float64 of mean 0: what `intervals.influence_interval` takes.

    A mixture with e of the sample's mass moves the distance by e * influence, to first order. With the optimal map
    x -> mean_r + A (x - mean_g) between the Gaussians, a generated x of deviation c moves it by
    2 (mean_g - mean_r).c + c.c - c.A c, less the mean; a real one likewise, with the inverse of A.
    generated_rows, real_rows: features [n, D] of samples; row i of both belongs to sample i (or they are independent).
        None for real ones that are no sample, such as those behind published statistics.
    O(D^3 + n D^2) time. Source: Rippl, Munk and Sturm 2016, Limit laws of the empirical Wasserstein distance, Sec. 2.
    """
    a, b = real.covariance, generated.covariance.to(real.mean)
    vectors, values = _spectrum(a)
    root = vectors * values.sqrt()
    turn, squares = _spectrum(root.T @ b @ root)  # sqrt(A) B sqrt(A), A and B the covariances
    to_real, to_generated = (root @ turn) / squares**0.25, (vectors / values.sqrt() @ turn) * squares**0.25
    shift = generated.mean.to(real.mean) - real.mean
    result = _influence(generated_rows, generated.mean.to(real.mean), shift, to_real)
    return result if real_rows is None else result + _influence(real_rows, real.mean, -shift, to_generated)


def _influence(rows: Tensor, mean: Tensor, shift: Tensor, root: Tensor) -> Tensor:
    """Of one side [n]; root root^T is its part A of the optimal map."""
    parts = []
    for part in rows.split(CHUNK):
        centred = part.to(mean) - mean
        parts.append(2 * centred @ shift + centred.square().sum(1) - (centred @ root).square().sum(1))
    result = torch.cat(parts)
    return result - result.mean()


def _spectrum(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvectors [D, k] and eigenvalues [k] of the directions in which it is not zero within float64."""
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > values[-1:] * len(values) * torch.finfo(torch.float64).eps
    return vectors[:, kept], values[kept]


def read_gaussian(path: str | Path, num_features: int) -> Gaussian:
    """`mu` [D] and `sigma` [D, D] from an .npz, as pytorch-fid keeps them; no pickle is read."""
    try:
        with np.load(path, allow_pickle=False) as file:
            mean, covariance = (torch.from_numpy(np.asarray(file[name], dtype=np.float64)) for name in ("mu", "sigma"))
    except Exception as error:  # the zip and npy readers raise whatever they stumble over
        reason = one_line(error, 120)
        raise ValueError(f"cannot read mu and sigma from {path}: {reason}") from None
    if mean.shape != (num_features,) or covariance.shape != (num_features, num_features):
        raise ValueError(f"{path} holds statistics of {len(mean)} features, the network has {num_features}")
    return Gaussian(mean, covariance)
