"""Supervised baselines: least squares, and a mixture density network. They see the pairs only."""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from benchmarks.ot_conditional.noise import blur_pairs
from fewstep.rng import PerSampleRng, standard_normal, standard_uniform
from fewstep.transport.mixtures import categorical
from fewstep.transport.networks import mlp

Batch = dict[str, Tensor]


class Regression(nn.Module):
    """Mean of y given x by least squares; one Gaussian with a diagonal variance that does not depend on x around it.

    The variance is the mean square of the residuals on the pairs given to `calibrate`; before that it is one. Residuals
    of the training pairs make it too small once the net has memorised them: validation pairs are the fairer choice.
    """

    adam: ClassVar[dict[str, Any]] = {"lr": 3e-4, "weight_decay": 0.01}

    def __init__(self, x_dim: int, y_dim: int, width: int = 256, depth: int = 2, x_noise: float = 0.2) -> None:
        super().__init__()
        self.x_noise = x_noise
        self.net = mlp(x_dim, [width] * depth, y_dim, nn.ReLU())
        self.register_buffer("var", torch.ones(y_dim))

    def losses(self, batch: Batch) -> Batch:
        batch = blur_pairs(batch, self.x_noise, 0.0)
        return {"mse": (self.net(batch["x"]) - batch["y"]).square().sum(1).mean()}

    @torch.no_grad()
    def calibrate(self, x: Tensor, y: Tensor) -> None:
        self.var.copy_((y - self.net(x)).square().mean(0).clamp(min=1e-6))

    def log_density(self, y: Tensor, x: Tensor) -> Tensor:
        return torch.distributions.Normal(self.net(x), self.var.sqrt()).log_prob(y).sum(1)

    def sample(self, x: Tensor, rng: PerSampleRng | None = None) -> Tensor:
        return self.net(x) + self.var.sqrt() * standard_normal(rng, x, len(self.var))


class MixtureDensityNetwork(nn.Module):
    """pi(y|x) = sum_m w_m(x) N(y | mean_m(x), Sigma_m(x)), all from one net (Bishop 1994); loss = NLL of the pairs.

    full: covariances with correlations, as a chain of regressions: within a component, coordinate d given the earlier
    ones has mean mu_d + sum_{e<d} n_de (y_e - mu_e) and standard deviation s_d. `floor` bounds every s_d from below,
    so the likelihood is bounded. Pairs are blurred by `x_noise` and `y_noise` (see `noise`). With those, weight decay
    and the step of best validation NLL, this is the baseline to beat.
    """

    adam: ClassVar[dict[str, Any]] = {"lr": 1e-3, "weight_decay": 0.05}

    def __init__(
        self,
        x_dim: int,
        y_dim: int,
        num_components: int = 20,
        width: int = 64,
        depth: int = 2,
        full: bool = True,
        floor: float = 0.03,
        x_noise: float = 0.2,
        y_noise: float = 0.1,
    ) -> None:
        super().__init__()
        self.y_dim, self.num_components, self.floor = y_dim, num_components, floor
        self.x_noise, self.y_noise = x_noise, y_noise
        self.num_chain = y_dim * (y_dim - 1) // 2 if full else 0
        self.net = mlp(x_dim, [width] * depth, num_components * (1 + 2 * y_dim + self.num_chain))
        nn.init.normal_(self.net[-1].weight, std=0.01)
        nn.init.zeros_(self.net[-1].bias)

    @torch.no_grad()
    def initialise(self, x: Tensor, y: Tensor) -> None:
        """Start every component at a y of the training pairs, with half the spread of y."""
        rows = torch.randperm(len(y), generator=torch.Generator().manual_seed(0)).repeat(self.num_components)
        bias = self.net[-1].bias.view(self.num_components, -1)
        bias[:, 1 : 1 + self.y_dim] = y[rows[: self.num_components]]
        half_spread = (0.5 * y.std(0)).clamp(min=2 * self.floor) - self.floor
        bias[:, 1 + self.y_dim : 1 + 2 * self.y_dim] = half_spread.expm1().log()  # inverse of softplus

    def components(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """log_w [B, M], mean [B, M, D], std [B, M, D], chain [B, M, D, D] strictly lower triangular."""
        output = self.net(x).unflatten(1, (self.num_components, -1))
        logit, mean, raw, entries = output.split([1, self.y_dim, self.y_dim, self.num_chain], dim=-1)
        chain = output.new_zeros(*mean.shape, self.y_dim)
        if self.num_chain:
            row, column = torch.tril_indices(self.y_dim, self.y_dim, -1, device=x.device)
            chain[..., row, column] = entries
        return logit.squeeze(-1).log_softmax(1), mean, self.floor + nn.functional.softplus(raw), chain

    def losses(self, batch: Batch) -> Batch:
        batch = blur_pairs(batch, self.x_noise, self.y_noise)
        return {"nll": -self.log_density(batch["y"], batch["x"]).mean()}

    def log_density(self, y: Tensor, x: Tensor) -> Tensor:
        log_w, mean, std, chain = self.components(x)
        residual = y[:, None] - mean
        unit = (residual - (chain @ residual[..., None]).squeeze(-1)) / std
        log_prob = -0.5 * unit.square().sum(-1) - std.log().sum(-1) - 0.5 * self.y_dim * math.log(2 * math.pi)
        return (log_w + log_prob).logsumexp(1)

    def sample(self, x: Tensor, rng: PerSampleRng | None = None) -> Tensor:
        log_w, mean, std, chain = self.components(x)
        rows, picked = torch.arange(len(x), device=x.device), categorical(log_w, standard_uniform(rng, x))
        noise = std[rows, picked] * standard_normal(rng, x, self.y_dim)
        eye = torch.eye(self.y_dim, device=x.device, dtype=x.dtype)
        residual = torch.linalg.solve_triangular(eye - chain[rows, picked], noise[..., None], upper=False)
        return mean[rows, picked] + residual.squeeze(-1)
