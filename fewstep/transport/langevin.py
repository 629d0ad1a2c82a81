"""Langevin sampling of an unnormalised density, and the replay buffer that keeps its chains alive between steps.

Discretised Langevin diffusion (Parisi 1981; Roberts & Tweedie 1996) as used for energy-based models by Mokrov et al.,
"Energy-guided entropic neural optimal transport" (2024), Algorithm 1.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fewstep.rng import PerSampleRng, standard_normal, standard_uniform


def langevin(
    log_density: Callable[[Tensor], Tensor],
    y: Tensor,
    step_size: float,
    num_steps: int,
    rng: PerSampleRng | None = None,
    clip: float | None = None,
    bounds: tuple[float, float] | None = None,
    adjust: bool = False,
) -> Tensor:
    """Move every row of y [B, ...] by `num_steps` of y + (eta/2) score(y) + sqrt(eta) xi, with fresh xi ~ N(0, I).

    log_density: maps [B, ...] to [B], up to a constant per row, differentiable in y; its gradient is the score.
    step_size: eta > 0. Noise sqrt(eta) is what makes exp(log_density) stationary; for N(0, 1) the unadjusted chain
    settles at variance 1 / (1 - eta/4).
    adjust: Metropolis-Hastings acceptance (MALA); the target is then stationary without a step size bias.
    clip: longest score of a row; a biased but tame drift when unadjusted, a mere change of proposal when adjusted.
    bounds: (low, high) box: unadjusted rows are projected on it, adjusted proposals outside it are refused.
    Returns y [B, ...] without gradient; the network's own gradients are left untouched.
    """
    if step_size <= 0:
        raise ValueError(f"step_size must be positive, got {step_size}")
    y = y.detach()
    value, score = _value_and_score(log_density, y, clip)
    for _ in range(num_steps):
        noise = standard_normal(rng, y, *y.shape[1:])
        proposal = y + 0.5 * step_size * score + step_size**0.5 * noise
        if bounds is not None and not adjust:
            proposal = proposal.clamp(*bounds)
        new_value, new_score = _value_and_score(log_density, proposal, clip)
        if adjust:
            back = (y - proposal - 0.5 * step_size * new_score).flatten(1)
            log_ratio = new_value - value + (noise.flatten(1).square() - back.square() / step_size).sum(1) / 2
            accept = standard_uniform(rng, y).log() < log_ratio
            if bounds is not None:
                accept &= ((proposal >= bounds[0]) & (proposal <= bounds[1])).flatten(1).all(1)
            rows = accept.view(-1, *[1] * (y.dim() - 1))
            new_value, new_score = torch.where(accept, new_value, value), torch.where(rows, new_score, score)
            proposal = torch.where(rows, proposal, y)
        y, value, score = proposal, new_value, new_score
    return y


def _value_and_score(log_density: Callable[[Tensor], Tensor], y: Tensor, clip: float | None) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        y = y.detach().requires_grad_()
        value = log_density(y)
        (score,) = torch.autograd.grad(value.sum(), y)
    if clip is not None:
        norm = score.flatten(1).norm(dim=1).view(-1, *[1] * (y.dim() - 1))
        score = score * (clip / norm.clamp(min=clip))
    return value.detach(), score


class ReplayBuffer(nn.Module):
    """The latest `capacity` chain states as matched rows (x, y), first in, first out.

    A replayed row brings its own x with its y: y is a draw from pi(.|x) for that x and for no other. The rows are
    module buffers, so a checkpoint holds them and a resumed run continues the same chains.
    """

    x: Tensor
    y: Tensor
    num_pushed: Tensor

    def __init__(self, capacity: int, x_dim: int, y_dim: int) -> None:
        super().__init__()
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, got {capacity}")
        self.register_buffer("x", torch.zeros(capacity, x_dim))
        self.register_buffer("y", torch.zeros(capacity, y_dim))
        self.register_buffer("num_pushed", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def push(self, x: Tensor, y: Tensor) -> None:
        """Store rows x [B, Dx], y [B, Dy] over the oldest ones."""
        capacity = len(self.x)
        kept = min(len(x), capacity)
        rows = (self.num_pushed + len(x) - kept + torch.arange(kept, device=self.x.device)) % capacity
        self.x[rows], self.y[rows] = x[len(x) - kept :].to(self.x), y[len(x) - kept :].to(self.y)
        self.num_pushed += len(x)

    def mix(self, x: Tensor, y: Tensor, probability: float, rng: PerSampleRng | None = None) -> tuple[Tensor, Tensor]:
        """Replace each fresh row (x, y) by a stored one with this probability; an empty buffer replaces none."""
        replay, place = standard_uniform(rng, x, 2).unbind(1)
        filled = self.num_pushed.clamp(max=len(self.x))
        rows = (place * filled).long().clamp(max=len(self.x) - 1)
        keep = ((replay < probability) & (filled > 0))[:, None]
        return torch.where(keep, self.x[rows], x), torch.where(keep, self.y[rows], y)
