"""Two adversarial baselines, CGAN and UGAN + l2, with a kernel density estimate so that they can be scored in nats.

The runner alternates: one step of `discriminator_parameters()` on `discriminator_loss(batch)`, one of
`generator_parameters()` on `generator_loss(batch)`. Non-saturating logistic losses (Goodfellow et al. 2014) and the
gradient penalty R1 (Mescheder et al. 2018) at every step.
"""

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from fewstep.rng import PerSampleRng, standard_normal
from fewstep.transport.networks import mlp

Batch = dict[str, Tensor]
BANDWIDTHS = torch.logspace(-2, 0.5, 26)  # in units of the standardised y
ROWS_PER_CHUNK = 64


class Generator(nn.Module):
    """y = G(x, z) with z ~ N(0, I), and a density estimate from `num_kernels` of its samples.

    `log_density` averages Gaussians of one bandwidth around G(x, z_k), the same z_k for every x. It is an estimate: the
    bandwidth blurs, and few kernels make it too low on average. `calibrate` picks the bandwidth that scores best on
    the (validation) pairs given.
    """

    def __init__(self, x_dim: int, y_dim: int, noise_dim: int, width: int, num_kernels: int = 256) -> None:
        super().__init__()
        self.noise_dim = noise_dim
        self.net = mlp(x_dim + noise_dim, [width] * 3, y_dim, nn.LeakyReLU(0.2))
        kernels = torch.randn(num_kernels, noise_dim, generator=torch.Generator().manual_seed(0))
        self.register_buffer("kernels", kernels)
        self.register_buffer("bandwidth", torch.tensor(math.nan))

    def forward(self, x: Tensor, rng: PerSampleRng | None = None) -> Tensor:
        return self.net(torch.cat([x, standard_normal(rng, x, self.noise_dim)], dim=1))

    @torch.no_grad()
    def calibrate(self, x: Tensor, y: Tensor) -> None:
        scores = torch.stack([rows.sum(0) for rows in self._log_kernel_density(y, x, BANDWIDTHS.to(y))]).sum(0)
        self.bandwidth.copy_(BANDWIDTHS[scores.argmax().item()])

    @torch.no_grad()
    def log_density(self, y: Tensor, x: Tensor) -> Tensor:
        if self.bandwidth.isnan():
            raise ValueError("the kernel density has no bandwidth yet; call calibrate(x, y) on validation pairs first")
        return torch.cat(list(self._log_kernel_density(y, x, self.bandwidth[None])))[:, 0]

    def _log_kernel_density(self, y: Tensor, x: Tensor, bandwidths: Tensor) -> Iterator[Tensor]:
        """Blocks [b, H] of log mean_k N(y; G(x, z_k), h^2 I), one column per bandwidth h."""
        for rows, points in zip(x.split(ROWS_PER_CHUNK), y.split(ROWS_PER_CHUNK), strict=True):
            inputs = rows.repeat_interleave(len(self.kernels), 0), self.kernels.repeat(len(rows), 1)
            centres = self.net(torch.cat(inputs, dim=1)).view(len(rows), len(self.kernels), -1)
            distance = (points[:, None] - centres).square().sum(-1)  # [b, K]
            kernel = -0.5 * distance[..., None] / bandwidths.square()
            volume = y.shape[1] * (bandwidths.log() + 0.5 * math.log(2 * math.pi))
            yield kernel.logsumexp(1) - math.log(len(self.kernels)) - volume


class CGAN(nn.Module):
    """D judges (x, y) jointly: real are the pairs, fake is G on unpaired x. Unpaired y are not used."""

    generator_adam: ClassVar[dict[str, Any]] = {"lr": 1e-3, "weight_decay": 0.0, "betas": (0.5, 0.9)}
    discriminator_adam: ClassVar[dict[str, Any]] = {"lr": 3e-4, "weight_decay": 0.0, "betas": (0.5, 0.9)}

    def __init__(
        self, x_dim: int, y_dim: int, noise_dim: int | None = None, width: int = 256, r1: float = 0.01
    ) -> None:
        super().__init__()
        self.r1 = r1
        self.generator = Generator(x_dim, y_dim, noise_dim or y_dim, width)
        self.discriminator = mlp(x_dim + y_dim, [width] * 3, 1, nn.LeakyReLU(0.2))

    def discriminator_loss(self, batch: Batch) -> Tensor:
        x = batch["x_unpaired"]
        fake = torch.cat([x, self.generator(x).detach()], dim=1)
        return _discriminator_loss(self.discriminator, torch.cat([batch["x"], batch["y"]], dim=1), fake, self.r1)

    def generator_loss(self, batch: Batch) -> Tensor:
        x = batch["x_unpaired"]
        return softplus(-self.discriminator(torch.cat([x, self.generator(x)], dim=1))).mean()

    def generator_parameters(self) -> list[nn.Parameter]:
        return list(self.generator.parameters())

    def discriminator_parameters(self) -> list[nn.Parameter]:
        return list(self.discriminator.parameters())

    def calibrate(self, x: Tensor, y: Tensor) -> None:
        self.generator.calibrate(x, y)

    def log_density(self, y: Tensor, x: Tensor) -> Tensor:
        return self.generator.log_density(y, x)

    @torch.no_grad()
    def sample(self, x: Tensor, rng: PerSampleRng | None = None) -> Tensor:
        return self.generator(x, rng)


class UGAN(nn.Module):
    """UGAN + l2: D judges y alone, real are the unpaired y, fake is G on unpaired x; pairs enter as a squared error.

    The squared error pulls every draw to the mean of its pair, so samples spread less than y does: a known weakness.
    """

    generator_adam: ClassVar[dict[str, Any]] = {"lr": 1e-4, "weight_decay": 0.0, "betas": (0.5, 0.9)}
    discriminator_adam: ClassVar[dict[str, Any]] = {"lr": 1e-4, "weight_decay": 0.0, "betas": (0.5, 0.9)}

    def __init__(
        self,
        x_dim: int,
        y_dim: int,
        noise_dim: int | None = None,
        width: int = 256,
        r1: float = 0.01,
        pair_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.r1, self.pair_weight = r1, pair_weight
        self.generator = Generator(x_dim, y_dim, noise_dim or y_dim, width)
        self.discriminator = mlp(y_dim, [width] * 3, 1, nn.LeakyReLU(0.2))

    def discriminator_loss(self, batch: Batch) -> Tensor:
        fake = self.generator(batch["x_unpaired"]).detach()
        return _discriminator_loss(self.discriminator, batch["y_unpaired"], fake, self.r1)

    def generator_loss(self, batch: Batch) -> Tensor:
        fooling = softplus(-self.discriminator(self.generator(batch["x_unpaired"]))).mean()
        error = (self.generator(batch["x"]) - batch["y"]).square().sum(1).mean()
        return fooling + self.pair_weight * error

    # the players are read and measured as in CGAN
    generator_parameters = CGAN.generator_parameters
    discriminator_parameters = CGAN.discriminator_parameters
    calibrate = CGAN.calibrate
    log_density = CGAN.log_density
    sample = CGAN.sample


def _discriminator_loss(discriminator: nn.Module, real: Tensor, fake: Tensor, r1: float) -> Tensor:
    """Logistic loss plus (r1 / 2) E ||grad D||^2 at the real rows."""
    real = real.detach().requires_grad_()
    logits = discriminator(real)
    (slope,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
    penalty = 0.5 * r1 * slope.square().sum(1).mean()
    return softplus(-logits).mean() + softplus(discriminator(fake)).mean() + penalty
