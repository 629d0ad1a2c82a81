"""Conditional flow matching on the pairs (Lipman et al. 2023), with its exact density by the ODE."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from benchmarks.ot_conditional.noise import blur_pairs
from fewstep.rng import PerSampleRng, standard_normal
from fewstep.transport.networks import mlp

Batch = dict[str, Tensor]


class FlowMatching(nn.Module):
    """Velocity v(t, y_t, x) of the linear path y_t = (1 - t) data + t noise; t = 0 is data, t = 1 noise.

    Loss: ||v - (noise - data)||^2 at uniform t. Samples integrate dy/dt = v from t = 1 to 0 with `num_steps`
    fourth-order Runge-Kutta steps; the density carries d log p / dt = -div v along the way, the divergence exact (Dy
    gradients). Its error is that of the integrator alone.
    """

    adam: ClassVar[dict[str, Any]] = {"lr": 1e-3, "weight_decay": 0.01}

    def __init__(
        self,
        x_dim: int,
        y_dim: int,
        width: int = 128,
        depth: int = 3,
        num_steps: int = 20,
        x_noise: float = 0.2,
        y_noise: float = 0.1,
    ) -> None:
        super().__init__()
        self.y_dim, self.num_steps = y_dim, num_steps
        self.x_noise, self.y_noise = x_noise, y_noise
        self.net = mlp(1 + x_dim + y_dim, [width] * depth, y_dim)

    def velocity(self, t: Tensor, y: Tensor, x: Tensor) -> Tensor:
        """v [B, Dy] at times t [B, 1]."""
        return self.net(torch.cat([t, y, x], dim=1))

    def losses(self, batch: Batch) -> Batch:
        batch = blur_pairs(batch, self.x_noise, self.y_noise)
        data = batch["y"]
        noise, t = torch.randn_like(data), torch.rand_like(data[:, :1])
        velocity = self.velocity(t, (1 - t) * data + t * noise, batch["x"])
        return {"velocity": (velocity - (noise - data)).square().sum(1).mean()}

    @torch.no_grad()
    def sample(self, x: Tensor, rng: PerSampleRng | None = None) -> Tensor:
        noise = standard_normal(rng, x, self.y_dim)
        return self._integrate(lambda t, state: (self.velocity(t, state[0], x),), (noise,), 1.0, 0.0)[0]

    @torch.no_grad()
    def log_density(self, y: Tensor, x: Tensor) -> Tensor:
        with torch.inference_mode(False):  # the divergence needs autograd, also inside inference mode
            y, x = y.clone(), x.clone()
            start = (y, torch.zeros_like(y[:, 0]))
            noise, divergence = self._integrate(lambda t, s: self._velocity_and_divergence(t, s[0], x), start, 0.0, 1.0)
            return torch.distributions.Normal(0.0, 1.0).log_prob(noise).sum(1) + divergence

    def _velocity_and_divergence(self, t: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            velocity = self.velocity(t, y, x)
            slopes = [
                torch.autograd.grad(velocity[:, d].sum(), y, retain_graph=True)[0][:, d] for d in range(self.y_dim)
            ]
        return velocity.detach(), torch.stack(slopes).sum(0)

    def _integrate(self, field: Callable, state: tuple[Tensor, ...], start: float, end: float) -> tuple[Tensor, ...]:
        """Classical Runge-Kutta on a tuple of tensors; field(t [B, 1], state) gives its derivatives."""

        def moved(slopes: tuple[Tensor, ...], step: float) -> tuple[Tensor, ...]:
            return tuple(value + step * slope for value, slope in zip(state, slopes, strict=True))

        step = (end - start) / self.num_steps
        for i in range(self.num_steps):
            t = torch.full_like(state[0][:, :1], start + i * step)
            k1 = field(t, state)
            k2 = field(t + step / 2, moved(k1, step / 2))
            k3 = field(t + step / 2, moved(k2, step / 2))
            k4 = field(t + step, moved(k3, step))
            state = moved(tuple((a + 2 * b + 2 * c + d) / 6 for a, b, c, d in zip(k1, k2, k3, k4, strict=True)), step)
        return state
