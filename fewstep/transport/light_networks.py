"""Light solvers side by side, one for each fold of the pairs: the closed form of inverse_ot.py for C copies at once.

Their components are the potential's, which unpaired y place, and x only tilts them: right where p(y|x) is a part of a
p(y) of many narrow pieces, and where few pairs could not say where these are.

Shape legend: C copies, B conditions, R points, N and M components of potential and cost, D target dimensions.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.transport import inverse_ot, mixtures
from fewstep.transport.density_networks import Components
from fewstep.transport.inverse_ot import Cost, Potential

START_VARIANCE = 0.1  # of every component, for y of unit variance
START_SLOPE = 0.01


class Tilted(NamedTuple):
    """The potentials of C copies and their costs at B conditions."""

    log_w: Tensor  # [C, N], normalised
    center: Tensor  # [C, N, D]
    var: Tensor  # [C, N, D]
    log_v: Tensor  # [C, B, M], normalised
    slope: Tensor  # [C, B, M, D]

    def rows(self, start: int, end: int) -> "Tilted":
        return self._replace(log_v=self.log_v[:, start:end], slope=self.slope[:, start:end])

    def log_density(self, y: Tensor) -> Tensor:
        """log p(y_i|x_i) of y [B, D]. Returns [C, B]."""
        return self._of_each(lambda potential, cost: inverse_ot.log_density(y, potential, cost))

    def log_marginal(self, y: Tensor) -> Tensor:
        """log mean_i p(y_j|x_i) over the B conditions, for y [R, D]. Returns [C, R]."""
        product = self._of_each(lambda potential, cost: inverse_ot.log_density_matrix(y, potential, cost))
        return product.logsumexp(1) - math.log(product.shape[1])

    def components(self) -> Components:
        """The same densities as mixtures of the N M Gaussians of Prop. 3.2."""
        log_z = self._of_each(inverse_ot.log_components).flatten(2)
        var = self.var[:, None, None]
        mean = (self.center[:, None, None] + var * self.slope[..., None, :]).flatten(2, 3)
        whiten = torch.diag_embed(var.rsqrt().expand(*self.slope.shape[:3], -1, -1).flatten(2, 3))
        return Components(log_z.log_softmax(-1), mean, whiten)

    def _of_each(self, value: Callable[[Potential, Cost], Tensor]) -> Tensor:
        def one(log_w: Tensor, center: Tensor, var: Tensor, log_v: Tensor, slope: Tensor) -> Tensor:
            return value(Potential(log_w, center, mixtures.DiagonalCovariance(var)), Cost(log_v, slope))

        return torch.vmap(one)(*self)


class LightNetworks(nn.Module):
    """C conditional densities exp(f(y) - c(x, y)) / Z(x) (arXiv 2410.02628, Eq. 15 and 16), covariances diagonal.

    Args:
        copies, x_dim, y_dim, num_potential, num_cost: C, Dx, D, N and M.
        hidden: widths of the net of the slopes.
        floor: lower bound of a deviation, for y of unit variance.
    """

    def __init__(
        self,
        copies: int,
        x_dim: int,
        y_dim: int,
        num_potential: int,
        num_cost: int,
        hidden: Sequence[int],
        floor: float = 0.03,
    ) -> None:
        super().__init__()
        self.y_dim, self.num_cost, self.floor = y_dim, num_cost, floor
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for before, after in [*pairwise([x_dim, *hidden, num_cost * y_dim]), (x_dim, num_cost)]:
            bound = 1 / math.sqrt(before)
            self.weights.append(nn.Parameter(torch.empty(copies, before, after).uniform_(-bound, bound)))
            self.biases.append(nn.Parameter(torch.empty(copies, 1, after).uniform_(-bound, bound)))
        nn.init.normal_(self.weights[-2], std=START_SLOPE)
        nn.init.zeros_(self.biases[-2])
        self.log_w = nn.Parameter(torch.zeros(copies, num_potential))
        self.center = nn.Parameter(torch.randn(copies, num_potential, y_dim))
        raw = math.log(math.expm1(START_VARIANCE))
        self.raw_scale = nn.Parameter(torch.full((copies, num_potential, y_dim), raw))

    def potential_parameters(self) -> list[nn.Parameter]:
        return [self.log_w, self.center, self.raw_scale]

    @torch.no_grad()
    def start(self, y: Tensor) -> None:
        """Place the components of all copies on y [R, D], all that are known; several on a row where they are few."""
        rows = y[torch.arange(max(len(y), self.center.shape[1])) % len(y)]
        self.center.copy_(mixtures.fit(rows, self.center.shape[1], full=False, floor=self.floor**2).center)

    def forward(self, x: Tensor) -> Tilted:
        """At x [B, Dx] or [C, B, Dx]."""
        x = x if x.ndim == 3 else x.expand(len(self.center), -1, -1)
        *slope_layers, weight_layer = zip(self.weights, self.biases, strict=True)
        h = x
        for place, (weight, bias) in enumerate(slope_layers):
            h = torch.baddbmm(bias, F.silu(h) if place else h, weight)
        log_v = torch.baddbmm(weight_layer[1], x, weight_layer[0]).log_softmax(-1)
        var = F.softplus(self.raw_scale) + self.floor**2
        return Tilted(self.log_w.log_softmax(-1), self.center, var, log_v, h.unflatten(-1, (self.num_cost, self.y_dim)))
