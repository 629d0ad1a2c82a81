"""Gaussian mixtures in log space, with diagonal, low-rank and full covariances behind the same methods.

Shape legend: B points, N components, D dimensions, R rank, K rows of (vector, component index) pairs.

``quadratic(slope [K, D]) -> [K, N]``      slopeᵀ Σ_n slope for every component
``shift(slope [K, D], index [K]) -> [K, D]``  Σ_index slope: how far an exponential tilt moves the component's mean
``log_prob(y [B, D], center [N, D]) -> [B, N]``  log N(y | center_n, Σ_n)
``scale(noise [K, noise_dim], index [K]) -> [K, D]``  a draw of N(0, Σ_index) from standard normal noise
``variance() -> [N, D]``  the diagonals; ``dense() -> [N, D, D]``
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributions import LowRankMultivariateNormal

LOG_2PI = math.log(2 * math.pi)


class DiagonalCovariance(NamedTuple):
    """Σ_n = diag(var_n)."""

    var: Tensor  # [N, D], > 0

    @property
    def noise_dim(self) -> int:
        return self.var.shape[1]

    def quadratic(self, slope: Tensor) -> Tensor:
        return slope.square() @ self.var.T

    def shift(self, slope: Tensor, index: Tensor) -> Tensor:
        return self.var[index] * slope

    def log_prob(self, y: Tensor, center: Tensor) -> Tensor:
        # Differences first: the expanded y² - 2yc + c² cancels badly in float32 once var is small.
        distance = ((y[:, None] - center) * self.var.rsqrt()).square().sum(-1)  # [B, N]
        return -0.5 * (distance + self.var.log().sum(-1) + self.var.shape[1] * LOG_2PI)

    def scale(self, noise: Tensor, index: Tensor) -> Tensor:
        return self.var.sqrt()[index] * noise

    def variance(self) -> Tensor:
        return self.var

    def dense(self) -> Tensor:
        return torch.diag_embed(self.var)


class LowRankCovariance(NamedTuple):
    """Σ_n = F_n F_nᵀ + diag(var_n)."""

    factor: Tensor  # [N, D, R]
    var: Tensor  # [N, D], > 0

    @property
    def noise_dim(self) -> int:
        return self.factor.shape[1] + self.factor.shape[2]

    def quadratic(self, slope: Tensor) -> Tensor:
        projected = torch.einsum("kd,ndr->knr", slope, self.factor)
        return projected.square().sum(-1) + slope.square() @ self.var.T

    def shift(self, slope: Tensor, index: Tensor) -> Tensor:
        factor = self.factor[index]  # [K, D, R]
        projected = torch.einsum("kd,kdr->kr", slope, factor)
        return torch.einsum("kr,kdr->kd", projected, factor) + self.var[index] * slope

    def log_prob(self, y: Tensor, center: Tensor) -> Tensor:
        return LowRankMultivariateNormal(center, self.factor, self.var, validate_args=False).log_prob(y[:, None])

    def scale(self, noise: Tensor, index: Tensor) -> Tensor:
        common, own = noise.split([self.factor.shape[2], self.factor.shape[1]], dim=-1)
        return torch.einsum("kr,kdr->kd", common, self.factor[index]) + self.var.sqrt()[index] * own

    def variance(self) -> Tensor:
        return self.factor.square().sum(-1) + self.var

    def dense(self) -> Tensor:
        return self.factor @ self.factor.mT + torch.diag_embed(self.var)


class FullCovariance(NamedTuple):
    """Σ_n = L_n L_nᵀ with L_n lower triangular and a positive diagonal."""

    scale_tril: Tensor  # [N, D, D]

    @property
    def noise_dim(self) -> int:
        return self.scale_tril.shape[1]

    def quadratic(self, slope: Tensor) -> Tensor:
        return torch.einsum("kd,nde->kne", slope, self.scale_tril).square().sum(-1)

    def shift(self, slope: Tensor, index: Tensor) -> Tensor:
        scale_tril = self.scale_tril[index]  # [K, D, D]
        return torch.einsum("ke,kde->kd", torch.einsum("kd,kde->ke", slope, scale_tril), scale_tril)

    def log_prob(self, y: Tensor, center: Tensor) -> Tensor:
        difference = (y[:, None] - center).permute(1, 2, 0)  # [N, D, B]
        whitened = torch.linalg.solve_triangular(self.scale_tril, difference, upper=False)
        log_det = self.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)  # [N]
        return -0.5 * (whitened.square().sum(1).T + y.shape[1] * LOG_2PI) - log_det

    def scale(self, noise: Tensor, index: Tensor) -> Tensor:
        return torch.einsum("ke,kde->kd", noise, self.scale_tril[index])

    def variance(self) -> Tensor:
        return self.scale_tril.square().sum(-1)

    def dense(self) -> Tensor:
        return self.scale_tril @ self.scale_tril.mT


Covariance = DiagonalCovariance | LowRankCovariance | FullCovariance


def log_prob(y: Tensor, log_w: Tensor, center: Tensor, covariance: Covariance) -> Tensor:
    """log Σ_n w_n N(y | center_n, Σ_n) for y [B, D], normalised log_w [N], center [N, D]. Returns [B]."""
    return torch.logsumexp(log_w + covariance.log_prob(y, center), dim=-1)


def categorical(logits: Tensor, uniform: Tensor) -> Tensor:
    """Index [B] drawn from softmax(logits [B, N]): the cumulative sum inverted at ``uniform`` [B] in [0, 1)."""
    cumulative = logits.double().softmax(-1).cumsum(-1)
    index = torch.searchsorted(cumulative, uniform.double()[:, None] * cumulative[:, -1:], right=True)
    return index.squeeze(-1).clamp_(max=logits.shape[-1] - 1)


class MixtureFit(NamedTuple):
    """Result of `fit`: plain tensors of the data's dtype."""

    log_w: Tensor  # [N]
    center: Tensor  # [N, D]
    covariance: Tensor  # [N, D] variances, or [N, D, D] covariance matrices


def fit(y: Tensor, num_components: int, *, full: bool, floor: float, seed: int = 0) -> MixtureFit:
    """Maximum likelihood by k-means++ and expectation-maximisation (scikit-learn), on y [R, D].

    ``floor`` is added to every variance. Full covariances need more points than components times dimensions allow for;
    raises ValueError when there are fewer points than components.
    """
    from sklearn.mixture import GaussianMixture  # 1 s to import: only trainings pay it

    if len(y) < num_components:
        raise ValueError(
            f"{len(y)} points cannot place {num_components} components: give more unpaired y or fewer components"
        )
    model = GaussianMixture(
        num_components,
        covariance_type="full" if full else "diag",
        init_params="k-means++",
        reg_covar=floor,
        max_iter=200,
        random_state=seed,
    )
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # EM that has not converged is a fine starting point
        model.fit(y.double().cpu().numpy())

    def tensor(array: np.ndarray) -> Tensor:
        return torch.as_tensor(array, dtype=y.dtype)

    return MixtureFit(tensor(np.log(model.weights_)), tensor(model.means_), tensor(model.covariances_))
