"""Energy-based conditional transport: neural cost and potential, fitted by inverse entropic OT.

    pi(y|x) = exp((f(y) - c(x, y)) / epsilon) / Z(x)

Persiianov et al., "Inverse entropic optimal transport solves semi-supervised learning via data likelihood
maximization" (arXiv 2410.02628), Eq. 13 and Algorithm 1; the sampler follows Mokrov et al. (2024).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fewstep.rng import PerSampleRng, standard_uniform
from fewstep.transport.dimensions import check_dimensions
from fewstep.transport.langevin import ReplayBuffer, langevin
from fewstep.transport.mixtures import categorical
from fewstep.transport.networks import mlp, options_of

BASE_SCALE = 1.5  # standard deviation of the fixed Gaussian in f, in units of the spread of the reference y
ROWS_PER_CHUNK = 1 << 11  # cost evaluations at once in the partition estimate: few enough to stay in a core's cache


def energy_loss(cost_pairs: Tensor, potential_unpaired: Tensor, negative: Tensor, epsilon: float) -> dict[str, Tensor]:
    """Three scalars whose summed gradient is that of Eq. 13 (Algorithm 1); their value is not a likelihood.

    cost_pairs: c(x_p, y_p) [P]; potential_unpaired: f(y_r) [R]; negative: f(y') - c(x', y') [S] at draws
    y' ~ pi(.|x') that carry no gradient. Every term is divided by epsilon: without it the three only agree at 1.
    """
    return {
        "cost": cost_pairs.mean() / epsilon,
        "potential": -potential_unpaired.mean() / epsilon,
        "negative": negative.mean() / epsilon,
    }


class LogNormalizer(NamedTuple):
    """Estimate of log Z(x) [B] with the effective number of samples behind it [B], between 1 and `num_nodes`."""

    value: Tensor
    effective_samples: Tensor


class EnergyTransport(nn.Module):
    """Conditional density from a cost net c(x, y) and a potential net f(y), both MLPs with LeakyReLU 0.2.

    The nets see standardised inputs: `initialise` stores the mean and spread of x and the mean and covariance of y.
    f contains, besides its net, epsilon times the log-density of a wide fixed Gaussian around the reference y. The
    nets grow at most linearly, so this keeps Z(x) finite and the chains near the data; a bare MLP promises neither.

    gauge: "centred" (default) or None (the plain loss (18) of the paper). pi does not change under
    (c, f) -> (c + g(x) + h(y), f + h(y)), but the empirical loss does, by the difference of two sample means, and so
    falls for ever along g and h. "centred" evaluates the loss at the one representative of each class whose c
    averages to zero over a reference batch of y for every x and over a reference batch of x for every y: g and h
    then cancel exactly, whatever the batches. It does not cure memorisation of the paired x by a large cost net:
    stop on held-out likelihood, never on this loss.

    step_size is in units of the whitened y (covariance one). Training draws negatives with `num_steps`
    Metropolis-adjusted Langevin steps from replayed chains; `sample` uses the same kernel from a start that is already
    close to pi(.|x), so there is no short-run chain at test time that training never saw.
    """

    x_mean: Tensor
    x_scale: Tensor
    y_mean: Tensor
    y_factor: Tensor
    nodes: Tensor
    node_log_density: Tensor

    def __init__(
        self,
        x_dim: int,
        y_dim: int,
        cost_widths: Sequence[int] = (256,),
        potential_widths: Sequence[int] = (256, 256),
        epsilon: float = 1.0,
        gauge: str | None = "centred",
        step_size: float = 0.1,
        num_steps: int = 10,
        replay_probability: float = 0.95,
        buffer_capacity: int = 10_000,
        num_references: int = 16,
        num_nodes: int = 2048,
    ) -> None:
        options = options_of(locals())
        super().__init__()
        self.options = options
        if not 0 < epsilon < math.inf:
            raise ValueError(f"epsilon={epsilon}: must be positive and finite")
        if gauge not in ("centred", None):
            raise ValueError(f"gauge must be 'centred' or null, got {gauge!r}")
        if num_nodes < 2 or num_nodes % 2:
            raise ValueError(f"num_nodes must be an even number of at least 2, got {num_nodes}")
        self.x_dim, self.y_dim, self.epsilon, self.gauge = x_dim, y_dim, epsilon, gauge
        self.step_size, self.num_steps = step_size, num_steps
        self.replay_probability, self.num_references = replay_probability, num_references
        self.cost_net = mlp(x_dim + y_dim, cost_widths, 1, nn.LeakyReLU(0.2))
        self.potential_net = mlp(y_dim, potential_widths, 1, nn.LeakyReLU(0.2))
        self.buffer = ReplayBuffer(buffer_capacity, x_dim, y_dim)
        self.register_buffer("x_mean", torch.zeros(x_dim))
        self.register_buffer("x_scale", torch.ones(x_dim))
        self.register_buffer("y_mean", torch.zeros(y_dim))
        self.register_buffer("y_factor", torch.eye(y_dim))  # lower Cholesky factor of the covariance of y
        self.register_buffer("nodes", torch.zeros(num_nodes, y_dim))
        self.register_buffer("node_log_density", torch.full((num_nodes,), math.nan))

    def initialise(self, x: Tensor, y: Tensor) -> None:
        """Take scales and integration nodes from reference samples x [Q, Dx] and y [R, Dy] of the two marginals."""
        check_dimensions(self, x.shape[-1], y.shape[-1])
        for name, table, dim in (("x", x, self.x_dim), ("y", y, self.y_dim)):
            if table.dim() != 2 or len(table) <= dim or not table.isfinite().all():
                raise ValueError(
                    f"reference {name} must be finite, [more than {dim} rows, {dim}], got {list(table.shape)}"
                )
        if (y.std(0) == 0).any():
            raise ValueError(f"reference y has a constant column (standard deviations {y.std(0).tolist()}); drop it")
        self.x_mean.copy_(x.mean(0))
        self.x_scale.copy_(torch.where(x.std(0) > 1e-6, x.std(0), 1.0))
        self.y_mean.copy_(y.mean(0))
        covariance = torch.cov(y.T).reshape(self.y_dim, self.y_dim)
        ridge = 1e-6 * covariance.diagonal().mean() * torch.eye(self.y_dim).to(y)
        self.y_factor.copy_(torch.linalg.cholesky(covariance + ridge))
        nodes, log_density = _defensive_nodes(self._whiten(y.to(self.y_mean)), len(self.nodes))
        self.nodes.copy_(nodes)
        self.node_log_density.copy_(log_density)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The disjoint parameters of c and f; the paper gives each its own learning rate."""
        return {"cost": list(self.cost_net.parameters()), "potential": list(self.potential_net.parameters())}

    def cost(self, x: Tensor, y: Tensor) -> Tensor:
        """c(x, y) [B] of matched rows."""
        return self._cost(self._scale(x), self._whiten(y))

    def potential(self, y: Tensor) -> Tensor:
        """f(y) [B], the fixed Gaussian included."""
        return self._potential(self._whiten(y))

    def losses(self, batch: dict[str, Tensor], rng: PerSampleRng | None = None) -> dict[str, Tensor]:
        """Terms of the loss on an OT batch {x, y, x_unpaired, y_unpaired}; draws negatives and advances the chains."""
        x, z = self._scale(batch["x"]), self._whiten(batch["y"])
        x_unpaired, z_unpaired = self._scale(batch["x_unpaired"]), self._whiten(batch["y_unpaired"])
        x_negative, z_negative = self._negatives(x_unpaired, rng)
        cost, potential = self._cost(x, z), self._potential(z_unpaired)
        negative = self._potential(z_negative) - self._cost(x_negative, z_negative)
        if self.gauge == "centred":
            x_reference, z_reference = x_unpaired[: self.num_references], z_unpaired[: self.num_references]
            h_mean = self._pairwise_cost(x_reference, z_reference).mean()
            f_mean = self._potential(z_reference).mean()
            cost = cost - self._pairwise_cost(x, z_reference).mean(1)
            cost = cost - (self._pairwise_cost(x_reference, z).mean(0) - h_mean)
            potential = potential - (self._pairwise_cost(x_reference, z_unpaired).mean(0) - h_mean) - f_mean
            # h(y') enters f and c alike and cancels; what stays is g(x') and the constant of f
            negative = negative + self._pairwise_cost(x_negative, z_reference).mean(1) - f_mean
        return energy_loss(cost, potential, negative, self.epsilon)

    def log_normalizer(self, x: Tensor) -> LogNormalizer:
        """log Z(x) by importance sampling, with the effective number of samples.

        The nodes are the same for every x: half jittered reference y, half a Gaussian with the reference mean and
        1.5 times the reference spread, weighted by the density of this mixture. The estimate of Z is unbiased, so that
        of log Z is on average too low, by about half its relative variance: with few effective samples `log_density`
        is optimistic. Distrust it below some tens.
        """
        log_weights = self._log_weights(x)
        total = log_weights.logsumexp(1)
        effective = (2 * total - (2 * log_weights).logsumexp(1)).exp()
        return LogNormalizer(total - math.log(len(self.nodes)) + self._log_volume(), effective)

    def diagnostics(self, x: Tensor) -> dict[str, Tensor]:
        """Median number of effective samples at up to 16 rows of x; `log_density` needs some tens of them."""
        with torch.no_grad():
            return {"effective_samples": self.log_normalizer(x[:16]).effective_samples.median()}

    def log_density(self, y: Tensor, x: Tensor) -> Tensor:
        """Estimate of log pi(y|x) [B] in nats; on average too high, see `log_normalizer`."""
        return (self.potential(y) - self.cost(x, y)) / self.epsilon - self.log_normalizer(x).value

    def sample(self, x: Tensor, rng: PerSampleRng | None = None) -> Tensor:
        """One draw y [B, Dy] per row of x: a node picked by its importance weight, then `num_steps` of Langevin."""
        with torch.inference_mode(False), torch.no_grad():  # the score needs autograd, also inside inference mode
            x = x.clone()
            place = standard_uniform(rng, x)
            picked = categorical(self._log_weights(x), place)
            z = self._langevin(self._scale(x), self.nodes[picked], rng)
            return self.y_mean + z @ self.y_factor.T

    def _negatives(self, x: Tensor, rng: PerSampleRng | None) -> tuple[Tensor, Tensor]:
        self._check_initialised()
        half = len(self.nodes) // 2  # the first half of the nodes are jittered reference y
        start = self.nodes[(standard_uniform(rng, x) * half).long()]
        x, z = self.buffer.mix(x, start, self.replay_probability, rng)
        z = self._langevin(x, z, rng)
        if self.training:
            self.buffer.push(x, z)
        return x, z

    def _langevin(self, x: Tensor, z: Tensor, rng: PerSampleRng | None) -> Tensor:
        return langevin(
            lambda z: (self._potential(z) - self._cost(x, z)) / self.epsilon,
            z, self.step_size, self.num_steps, rng, adjust=True,
        )  # fmt: skip

    def _log_weights(self, x: Tensor) -> Tensor:
        """log of exp((f - c) / epsilon) over the node density [B, num_nodes]."""
        self._check_initialised()
        potential = self._potential(self.nodes) / self.epsilon - self.node_log_density
        # One buffer for all blocks: small results kept between large temporaries would fragment the heap by gigabytes.
        weights = potential.new_empty(len(x), len(self.nodes))
        size = max(1, ROWS_PER_CHUNK // len(self.nodes))
        for start, rows in zip(range(0, len(x), size), self._scale(x).split(size), strict=True):
            weights[start : start + size] = potential - self._pairwise_cost(rows, self.nodes) / self.epsilon
        return weights

    def _scale(self, x: Tensor) -> Tensor:
        return (x - self.x_mean) / self.x_scale

    def _whiten(self, y: Tensor) -> Tensor:
        return torch.linalg.solve_triangular(self.y_factor, (y - self.y_mean).T, upper=False).T

    def _log_volume(self) -> Tensor:
        return self.y_factor.diagonal().log().sum()

    def _cost(self, x: Tensor, z: Tensor) -> Tensor:
        return self.cost_net(torch.cat([x, z], dim=1)).squeeze(1)

    def _potential(self, z: Tensor) -> Tensor:
        return self.potential_net(z).squeeze(1) + self.epsilon * _log_gaussian(z, BASE_SCALE)

    def _pairwise_cost(self, x: Tensor, z: Tensor) -> Tensor:
        """c of every row of x with every row of z [B, J]; the first layer is applied to each side once."""
        first, rest = self.cost_net[0], self.cost_net[1:]
        assert isinstance(first, nn.Linear)
        hidden = (x @ first.weight[:, : self.x_dim].T)[:, None] + (z @ first.weight[:, self.x_dim :].T + first.bias)
        return rest(hidden).squeeze(-1)

    def _check_initialised(self) -> None:
        if self.node_log_density[0].isnan():
            raise ValueError("EnergyTransport has no reference sample yet; call initialise(x, y) first")


def _log_gaussian(z: Tensor, scale: float) -> Tensor:
    """log N(z; 0, scale^2 I) [B]."""
    return -0.5 * (z / scale).square().sum(1) - z.shape[1] * (math.log(scale) + 0.5 * math.log(2 * math.pi))


def _defensive_nodes(z: Tensor, num_nodes: int) -> tuple[Tensor, Tensor]:
    """Importance sampling nodes [K, D] and their log-density [K]: half a kernel density of z, half a wide Gaussian.

    The kernels follow the data, the Gaussian bounds the weights (Hesterberg's defensive mixture). Normals come from
    scrambled Sobol points, which fill space more evenly than independent draws.
    """
    half, dim = num_nodes // 2, z.shape[1]
    centres = z[torch.randperm(len(z), generator=torch.Generator().manual_seed(0))[:half].to(z.device)]
    bandwidth = (4 / (dim + 2) / len(centres)) ** (1 / (dim + 4))  # Silverman's rule for unit covariance
    uniform = torch.quasirandom.SobolEngine(2 * dim, scramble=True, seed=0).draw(half).clamp(1e-6, 1 - 1e-6)
    jitter, wide = torch.special.ndtri(uniform).to(z).split(dim, dim=1)
    kernel = centres[torch.arange(half, device=z.device) % len(centres)] + bandwidth * jitter
    nodes = torch.cat([kernel, BASE_SCALE * wide])
    distance = torch.cdist(nodes, centres).square() / (2 * bandwidth**2)
    log_kernel = (
        (-distance).logsumexp(1) - math.log(len(centres)) - dim * (math.log(bandwidth) + 0.5 * math.log(2 * math.pi))
    )
    return nodes, torch.logaddexp(log_kernel, _log_gaussian(nodes, BASE_SCALE)) - math.log(2)
