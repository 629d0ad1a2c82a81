"""Guidance in one convention: w = 1 is unguided, unconditional + w (conditional - unconditional).

Ho and Salimans 2022 write w + 1 for this w, and so does the code of iCD: convert where such weights are loaded.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from fewstep.diffusion.schedules import per_sample
from fewstep.losses import l2

Condition = Mapping[str, Tensor]  # what a network is conditioned on, each [B, ...]; {} for none
Network = Callable[[Tensor, Tensor, Condition], Tensor]  # (x [B, ...], t [B], condition) -> output [B, ...]
Denoiser = Callable[[Tensor, Tensor, Tensor, Condition], Tensor]  # (x, t, guidance_scale [B], condition) -> output
GuidanceSchedule = Callable[[Tensor], Tensor]  # t [B] -> guidance scale [B]
Distance = Callable[[Tensor, Tensor], Tensor]  # (prediction, target) [B, ...] -> [B]


def guide(unconditional: Tensor, conditional: Tensor, guidance_scale: Tensor) -> Tensor:
    """Guided output [B, ...] for outputs [B, ...] of any one prediction kind and scales [B]."""
    return unconditional + per_sample(guidance_scale, conditional) * (conditional - unconditional)


class ClassifierFree:
    """A denoiser that guides a network: both answers in one pass of 2B rows.

    null_condition: what the network was trained on in place of a dropped condition, each [1, ...]. kept: conditions
    that are never dropped, such as a picture that a ControlNet reads; both answers have them.
    """

    def __init__(self, network: Network, null_condition: Condition, kept: Collection[str] = ()) -> None:
        self.network, self.null_condition, self.kept = network, null_condition, frozenset(kept)

    def __call__(self, x: Tensor, t: Tensor, guidance_scale: Tensor, condition: Condition) -> Tensor:
        """Guided output [B, ...] for x [B, ...], t [B], guidance_scale [B]."""
        if condition.keys() != self.null_condition.keys() | self.kept:
            known = sorted(self.null_condition.keys() | self.kept)
            raise ValueError(f"condition has {sorted(condition)}, null_condition {known}")
        null = {
            key: row if key in self.kept else self.null_condition[key].to(row.device).expand_as(row)
            for key, row in condition.items()
        }
        both = {key: torch.cat([null[key], row]) for key, row in condition.items()}
        unconditional, conditional = self.network(torch.cat([x, x]), torch.cat([t, t]), both).chunk(2)
        return guide(unconditional, conditional, guidance_scale)


def guidance_distillation(
    student: Denoiser,
    teacher: Denoiser,
    x: Tensor,
    t: Tensor,
    guidance_scale: Tensor,
    condition: Condition,
    distance: Distance = l2,
) -> Tensor:
    """Distance of a w-conditioned student to the guided teacher at x_t, [B] (Meng et al. 2023, stage one)."""
    with torch.no_grad():
        target = teacher(x, t, guidance_scale, condition)
    return distance(student(x, t, guidance_scale, condition), target)


class DynamicGuidance:
    """w(t) = 1 + gamma(t) (scale - 1); gamma falls from 1 at t <= full_below linearly to 0 at t >= off_above.

    Sadat et al. 2024 (CADS). off_above defaults to full_below: the step of iCD (section 3.4), unguided exactly
    where t > full_below. full_below = 1 guides at every t, 0 at none. scale: a number, or one per sample [B].
    """

    def __init__(self, scale: float | Tensor, full_below: float = 1.0, off_above: float | None = None) -> None:
        off_above = full_below if off_above is None else off_above
        if not 0 <= full_below <= off_above <= 1:
            raise ValueError(f"dynamic guidance needs 0 <= full_below <= off_above <= 1, got {full_below}, {off_above}")
        self.scale, self.full_below, self.off_above = scale, full_below, off_above

    def __call__(self, t: Tensor) -> Tensor:
        """Scales shaped like t, or [B] for a scalar t and scales [B]; exactly 1 where off, exactly scale where full."""
        if self.full_below == self.off_above:
            gamma = (t <= self.full_below + 1e-6).to(t)  # t = 0.7 made as 700 / 1000 may be an ulp above
        else:
            gamma = ((self.off_above - t) / (self.off_above - self.full_below)).clamp(0, 1)
        scale = self.scale.to(t) if isinstance(self.scale, Tensor) else t.new_full((), self.scale)
        return torch.lerp(torch.ones_like(scale), scale, gamma)


def unguided(t: Tensor) -> Tensor:
    """The guidance schedule that is 1 everywhere."""
    return torch.ones_like(t)


def draw_scales(scales: Sequence[float], uniform: Tensor) -> Tensor:
    """One of the scales for each uniform draw on [0, 1), each as likely, [B] in the dtype of the draws."""
    drawn = torch.full_like(uniform, scales[0])
    for index, scale in enumerate(scales[1:], 1):
        drawn = torch.where(uniform * len(scales) >= index, scale, drawn)
    return drawn


def require_trained(guidance_scale: float, trained: Sequence[float]) -> None:
    """ValueError in one line unless the scale is one of those that a guidance-distilled network was trained on."""
    if not any(math.isclose(guidance_scale, known, abs_tol=1e-6) for known in trained):
        known = ", ".join(f"{value:g}" for value in trained)
        raise ValueError(f"guidance_scale {guidance_scale:g} was not trained; choose one of {known} (1 is unguided)")


def guidance_features(guidance_scale: Tensor, dim: int = 512) -> Tensor:
    """Fourier features [B, dim] of scales [B]: sin and cos of 1000 (w - 1) at dim / 2 rates from 1 to 1 / 10000.

    Luo et al. 2023 (LCM), as iCD and diffusers' `timestep_cond` have them. An odd dim ends in a 0. w = 1 gives zeros
    and ones, which is not the same to a network as no embedding.
    """
    half = dim // 2
    exponents = torch.arange(half, dtype=guidance_scale.dtype, device=guidance_scale.device) / (half - 1)
    angle = 1000 * (guidance_scale[:, None] - 1) * torch.exp(-math.log(10000) * exponents)
    features = torch.cat([angle.sin(), angle.cos()], 1)
    return nn.functional.pad(features, (0, dim % 2))


class GuidanceEmbedding(nn.Module):
    """Projection of the Fourier features of w, to be added to a time embedding; zero until trained, without bias."""

    def __init__(self, out_dim: int, dim: int = 512) -> None:
        super().__init__()
        if dim < 4:
            raise ValueError(f"guidance features need dim >= 4, got {dim}")
        self.dim = dim
        self.projection = nn.Linear(dim, out_dim, bias=False)
        nn.init.zeros_(self.projection.weight)

    def forward(self, guidance_scale: Tensor) -> Tensor:
        """Scales [B] -> [B, out_dim] in the dtype of the weights; the features are made in that of the scales."""
        return self.projection(guidance_features(guidance_scale, self.dim).to(self.projection.weight.dtype))
