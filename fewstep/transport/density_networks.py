"""Mixture density networks side by side, one for each fold of the pairs, and the likelihoods that train them.

Shape legend: C copies, B rows or conditions, R points, K components, D target dimensions.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.transport.gaussian import LinearGaussian
from fewstep.transport.mixtures import LOG_2PI, categorical

SPREAD = 0.5  # share of the start's deviation that lies between its components, the rest within them


class Components(NamedTuple):
    """p(y|x_i) = Σ_k w_k N(mean_k, (whiten_kᵀ whiten_k)⁻¹), whiten lower triangular; leading dimensions are free."""

    log_w: Tensor  # [..., B, K], normalised
    mean: Tensor  # [..., B, K, D]
    whiten: Tensor  # [..., B, K, D, D]

    def rows(self, start: int, end: int) -> "Components":
        return Components(self.log_w[..., start:end, :], self.mean[..., start:end, :, :],
                          self.whiten[..., start:end, :, :, :])  # fmt: skip

    def components(self) -> "Components":
        return self

    def log_density(self, y: Tensor) -> Tensor:
        """log p(y_i|x_i) of y [B, D] or [..., B, D]. Returns [..., B]."""
        unit = (self.whiten @ (y[..., None, :] - self.mean)[..., None]).squeeze(-1)
        return torch.logsumexp(self._log_scale() - 0.5 * unit.square().sum(-1), -1)

    def log_marginal(self, y: Tensor) -> Tensor:
        """log mean_i p(y_j|x_i) over the B conditions, for y [R, D]. Returns [..., R].

        All exponents are one matrix product of the natural parameters with the statistics (1, y, y yᵀ) of y.
        """
        precision = self.whiten.mT @ self.whiten
        pull = (precision @ self.mean[..., None]).squeeze(-1)
        constant = self._log_scale() - 0.5 * (pull * self.mean).sum(-1)
        natural = torch.cat([constant[..., None], pull, -0.5 * precision.flatten(-2)], -1).flatten(-3, -2)
        square = (y[:, :, None] * y[:, None]).flatten(1)
        statistics = torch.cat([torch.ones_like(y[:, :1]), y, square], 1)
        return torch.logsumexp(natural @ statistics.T, -2) - math.log(self.mean.shape[-3])

    def sample(self, uniform: Tensor, noise: Tensor) -> Tensor:
        """One draw per condition, from uniform [B] and standard normal noise [B, D]. Returns [B, D]."""
        rows, picked = torch.arange(len(uniform), device=uniform.device), categorical(self.log_w, uniform)
        step = torch.linalg.solve_triangular(self.whiten[rows, picked], noise[..., None], upper=False)
        return self.mean[rows, picked] + step.squeeze(-1)

    def _log_scale(self) -> Tensor:
        log_det = self.whiten.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return self.log_w + log_det - 0.5 * self.mean.shape[-1] * LOG_2PI


class DensityNetworks(nn.Module):
    """C networks from x to a mixture of K Gaussians (Bishop 1994), each around a linear Gaussian at which it starts.

    All parameters are differences from the start, so weight decay pulls towards it. Within a component a coordinate
    given the earlier ones is a regression: covariances are full and depend on x.

    Args:
        copies, x_dim, y_dim, num_components: C, Dx, D and K.
        hidden: widths; () is linear in x, of the logarithm of deviations too.
        floor: lower bound of the deviation of a coordinate given the earlier ones, for y of unit variance.
    """

    base_weight: Tensor
    base_bias: Tensor
    base_output: Tensor

    def __init__(
        self, copies: int, x_dim: int, y_dim: int, num_components: int, hidden: Sequence[int] = (), floor: float = 0.03
    ) -> None:
        super().__init__()
        self.y_dim, self.num_components, self.floor = y_dim, num_components, floor
        self.num_chain = y_dim * (y_dim - 1) // 2
        widths = [x_dim, *hidden, num_components * (1 + 2 * y_dim + self.num_chain)]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for before, after in pairwise(widths):
            bound = 1 / math.sqrt(before)
            self.weights.append(nn.Parameter(torch.empty(copies, before, after).uniform_(-bound, bound)))
            self.biases.append(nn.Parameter(torch.zeros(copies, 1, after)))
        nn.init.zeros_(self.weights[-1])
        self.mean_weight = nn.Parameter(torch.zeros(copies, x_dim, y_dim))
        self.register_buffer("base_weight", torch.zeros(copies, x_dim, y_dim))
        self.register_buffer("base_bias", torch.zeros(copies, 1, y_dim))
        self.register_buffer("base_output", torch.zeros(copies, 1, widths[-1]))

    def potential_parameters(self) -> list[nn.Parameter]:
        """What is of a component at any x: the biases of the last layer."""
        return [p for p in (self.biases[-1],) if isinstance(p, nn.Parameter)]

    @torch.no_grad()
    def start(self, copy: int, around: LinearGaussian, residual: Tensor) -> None:
        """Place a copy on a Gaussian; several components about residuals [P, D] of it, and narrower by as much."""
        self.base_weight[copy] = around.weight.T
        self.base_bias[copy] = around.bias
        output, dim = self.base_output[copy].view(self.num_components, -1), self.y_dim
        covariance = around.covariance
        if self.num_components > 1:
            generator = torch.Generator().manual_seed(copy)
            rows = torch.randint(len(residual), (self.num_components,), generator=generator)
            output[:, 1 : 1 + dim] = SPREAD * (residual[rows] - residual[rows].mean(0))
            covariance = covariance * (1 - SPREAD**2)
        factor = torch.linalg.cholesky(covariance)
        over = (factor.diagonal() - self.floor).clamp_min(1e-3)
        output[:, 1 + dim : 1 + 2 * dim] = over + torch.log(-torch.expm1(-over))  # the inverse of softplus
        row, column = torch.tril_indices(dim, dim, -1)
        chain = torch.eye(dim, dtype=factor.dtype) - factor.diagonal()[:, None] * torch.linalg.inv(factor)
        output[:, 1 + 2 * dim :] = chain[row, column]

    def forward(self, x: Tensor) -> Components:
        """At x [B, Dx] or [C, B, Dx]."""
        h = x if x.ndim == 3 else x.expand(len(self.base_bias), -1, -1)
        line = torch.baddbmm(self.base_bias, h, self.base_weight + self.mean_weight)
        for place, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = torch.baddbmm(bias, F.silu(h) if place else h, weight)
        parts = (h + self.base_output).unflatten(-1, (self.num_components, -1))
        logit, mean, raw, entries = parts.split([1, self.y_dim, self.y_dim, self.num_chain], dim=-1)
        scale = 1 / (self.floor + F.softplus(raw))
        row, column = torch.tril_indices(self.y_dim, self.y_dim, -1, device=x.device)
        whiten = torch.diag_embed(scale)
        whiten[..., row, column] = -scale[..., row] * entries
        return Components(logit.squeeze(-1).log_softmax(-1), line[..., None, :] + mean, whiten)
