"""The joint Gaussian and the ridge regression of a table, fitted to all pairs and judged by pairs that were left out.

Shape legend: P pairs, B conditions, F folds, D dimensions of y.
"""

import torch
from torch import Tensor, nn

from fewstep.transport import gaussian
from fewstep.transport.cross_fitting import seen_by
from fewstep.transport.density_networks import Components
from fewstep.transport.gaussian import LinearGaussian


class ClosedForms(nn.Module):
    """Two linear Gaussians; `held_out` [P, 2] is the log-density of each pair by fits without its fold."""

    names = ("joint", "ridge")

    weight: Tensor
    bias: Tensor
    whiten: Tensor
    held_out: Tensor

    def __init__(self, x_dim: int, y_dim: int) -> None:
        super().__init__()
        for name, shape in (("weight", (y_dim, x_dim)), ("bias", (y_dim,)), ("whiten", (y_dim, y_dim))):
            self.register_buffer(name, torch.zeros(len(self.names), *shape))
        self.register_buffer("held_out", torch.zeros(0, len(self.names)), persistent=False)

    @torch.no_grad()
    def fit(
        self, x: Tensor, y: Tensor, x_unpaired: Tensor, y_unpaired: Tensor, fold: Tensor, folds: int
    ) -> list[LinearGaussian]:
        """Fit to standardised rows, float64. Returns the joint Gaussian of the pairs that each of F copies sees."""
        left_out = torch.zeros(len(x), len(self.names), dtype=torch.float64)
        prior = gaussian.imagined_pairs(x, y, x_unpaired, y_unpaired)
        kept = fold != torch.arange(folds)[:, None]
        used = torch.cat([kept, seen_by(fold, folds), torch.ones(1, len(x))])
        joints = gaussian.joint_conditionals(x, y, x_unpaired, y_unpaired, used, [prior] * len(used))
        for left, without in zip(~kept, joints[:folds], strict=True):
            ridge = gaussian.fit_ridge(x[~left], y[~left])
            left_out[left] = torch.stack([one.log_density(y[left], x[left]) for one in (without, ridge)], 1)
        self.held_out = left_out.to(self.weight)
        for number, one in enumerate((joints[-1], gaussian.fit_ridge(x, y))):
            self.weight[number] = one.weight
            self.bias[number] = one.bias
            self.whiten[number] = torch.linalg.inv(torch.linalg.cholesky(one.covariance)).tril()
        return joints[folds:-1]

    def forward(self, x: Tensor) -> list[Components]:
        """Each of the two at x [B, Dx]."""
        line = torch.einsum("mde,be->mbd", self.weight, x) + self.bias[:, None]
        zero = torch.zeros_like(line[0, :, :1])
        return [
            Components(zero, mean[:, None], whiten.expand(len(x), 1, -1, -1))
            for mean, whiten in zip(line, self.whiten, strict=True)
        ]
