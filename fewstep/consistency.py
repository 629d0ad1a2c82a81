"""Invertible consistency distillation: one student encodes (data -> noise), one decodes, each in a few jumps.

Starodubcev et al., "Invertible Consistency Distillation for Text-Guided Image Editing in Around 7 Steps" (2024).
Students and teacher are denoisers (x [B, ...], t [B], guidance_scale [B], condition) -> output [B, ...]. A student's
answer at (x_t, t) is its jump to the end of t's segment (Eq. 3): up for `forward`, down for `reverse`.
Every loss is [B]. Targets carry no gradient. The target network is the student itself unless another one, such as its
moving average, is given.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from fewstep.boundaries import Boundaries
from fewstep.guidance import Condition, Denoiser, Distance
from fewstep.inversion import full_cycle
from fewstep.losses import pseudo_huber
from fewstep.predictions import Parametrization
from fewstep.schedules import per_sample

__all__ = ["Boundaries", "ConsistencyDistillation", "Draw", "Weights"]


@dataclass(frozen=True)
class Weights:
    """Weights of the summed objective (Eq. 5, section 4.1). A term of weight 0 is not computed."""

    forward_cd: float = 1.0
    reverse_cd: float = 1.0
    forward_preservation: float = 1.5
    reverse_preservation: float = 1.5
    full_cycle: float = 0.0


class Draw(NamedTuple):
    """What all losses of one iteration are made of; make it with `ConsistencyDistillation.draw`."""

    data: Tensor  # [B, ...]
    noise: Tensor  # [B, ...] standard normal
    forward_time: Tensor  # [B], a grid time in [start, 1)
    reverse_time: Tensor  # [B], a grid time in (0, 1]
    low: Tensor  # [B], a segment's ends
    high: Tensor  # [B]
    guidance_scale: Tensor  # [B], of the decoder; the encoder is never guided
    condition: Condition  # each [B, ...]


@dataclass(frozen=True)
class ConsistencyDistillation:
    """The losses for one schedule, one set of boundaries and a grid of num_steps teacher steps over [0, 1].

    parametrization: what the students predict. teacher_parametrization: what the teacher does, if not the same.
    """

    parametrization: Parametrization
    boundaries: Boundaries
    num_steps: int = 50
    distance: Distance = pseudo_huber
    weights: Weights = field(default_factory=Weights)
    teacher_parametrization: Parametrization | None = None

    def __post_init__(self) -> None:
        self.boundaries.require_on_grid(self.num_steps)
        for parametrization in (self.parametrization, self.teacher_parametrization or self.parametrization):
            parametrization.check((self.boundaries.start, 1 / self.num_steps, 1.0))

    def draw(self, data: Tensor, noise: Tensor, uniform: Tensor, guidance_scale: Tensor, condition: Condition) -> Draw:
        """uniform: [B, 3] on [0, 1), float32, for the encoder's time, the decoder's time and the segment."""
        steps, first = self.num_steps, round(self.boundaries.start * self.num_steps)
        forward = first + (uniform[:, 0] * (steps - first)).floor().clamp(max=steps - first - 1)
        reverse = 1 + (uniform[:, 1] * steps).floor().clamp(max=steps - 1)
        segment = self.boundaries.draw_segment(uniform[:, 2])
        return Draw(data, noise, forward / steps, reverse / steps, *segment, guidance_scale, condition)

    def forward_cd(self, forward: Denoiser, teacher: Denoiser, draw: Draw, target: Denoiser | None = None) -> Tensor:
        """Consistency of the encoder along one unguided teacher step to more noise, [B]."""
        unguided, end = torch.ones_like(draw.forward_time), self.boundaries.forward_end
        return self._consistency(forward, teacher, target or forward, draw, draw.forward_time, 1, end, unguided)

    def reverse_cd(self, reverse: Denoiser, teacher: Denoiser, draw: Draw, target: Denoiser | None = None) -> Tensor:
        """Consistency of the decoder along one guided teacher step to less noise, [B] (Eq. 2)."""
        scale, end = draw.guidance_scale, self.boundaries.reverse_end
        return self._consistency(reverse, teacher, target or reverse, draw, draw.reverse_time, -1, end, scale)

    def _consistency(
        self,
        student: Denoiser,
        teacher: Denoiser,
        target: Denoiser,
        draw: Draw,
        t: Tensor,
        direction: int,
        segment_end: Callable[[Tensor], Tensor],
        guidance_scale: Tensor,
    ) -> Tensor:
        near = ((t * self.num_steps).round() + direction) / self.num_steps  # one grid step on, [B]
        end = segment_end(t)
        x = self.parametrization.add_noise(draw.data, draw.noise, t)
        with torch.no_grad():
            teacher_jump = (self.teacher_parametrization or self.parametrization).jump
            stepped = teacher_jump(x, teacher(x, t, guidance_scale, draw.condition), t, near)
            output = target(stepped, near, guidance_scale, draw.condition)
            goal = self.parametrization.jump(stepped, output, near, end)
            goal = torch.where(per_sample((near - end).abs() < 1e-6, x), stepped, goal)  # "x0" at t = 0 would be 0 / 0
        return self.distance(self.parametrization.jump(x, student(x, t, guidance_scale, draw.condition), t, end), goal)

    def forward_preservation(self, forward: Denoiser, reverse: Denoiser, draw: Draw) -> Tensor:
        """How far the encoder is from undoing the decoder on a segment, [B], unguided; trains `forward` (Eq. 4)."""
        x = self.parametrization.add_noise(draw.data, draw.noise, draw.high)
        with torch.no_grad():
            lowered = self._descend(reverse, x, draw)
        return self.distance(self._ascend(forward, lowered, draw), x)

    def reverse_preservation(self, forward: Denoiser, reverse: Denoiser, draw: Draw) -> Tensor:
        """How far the decoder is from undoing the encoder on a segment, [B], unguided; trains `reverse` only (3.3)."""
        x = self.parametrization.add_noise(draw.data, draw.noise, draw.low)
        with torch.no_grad():
            raised = self._ascend(forward, x, draw)
        return self.distance(self._descend(reverse, raised, draw), x)

    def _ascend(self, forward: Denoiser, x: Tensor, draw: Draw) -> Tensor:
        output = forward(x, draw.low, torch.ones_like(draw.low), draw.condition)
        return self.parametrization.jump(x, output, draw.low, draw.high)

    def _descend(self, reverse: Denoiser, x: Tensor, draw: Draw) -> Tensor:
        """All decoding jumps of a segment. Rows that need fewer than the most jump high -> high, which is exact."""
        t, high = draw.high, draw.high
        for _ in range(self.boundaries.most_reverse_steps):
            moving = t > draw.low + 1e-6
            source = torch.where(moving, t, high)
            end = torch.where(moving, torch.maximum(self.boundaries.reverse_end(t), draw.low), high)
            x = self.parametrization.jump(x, reverse(x, source, torch.ones_like(t), draw.condition), source, end)
            t = torch.where(moving, end, t)
        return x

    def term(self, name: str, forward: Denoiser, reverse: Denoiser, teacher: Denoiser, draw: Draw) -> Tensor:
        """One loss [B] by its name in `Weights`, not weighted: for an optimizer step per term, as the authors do."""
        if name == "forward_cd":
            return self.forward_cd(forward, teacher, draw)
        if name == "reverse_cd":
            return self.reverse_cd(reverse, teacher, draw)
        if name == "forward_preservation":
            return self.forward_preservation(forward, reverse, draw)
        if name == "reverse_preservation":
            return self.reverse_preservation(forward, reverse, draw)
        if name == "full_cycle":
            models = (forward, reverse, self.parametrization, self.boundaries)
            return full_cycle(*models, draw.data, draw.noise, draw.condition, distance=self.distance)
        raise ValueError(f"loss term {name!r} is unknown; choose one of {', '.join(asdict(self.weights))}")

    def objective(
        self, forward: Denoiser, reverse: Denoiser, teacher: Denoiser, draw: Draw
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum [B] (Eq. 5) and its terms [B], not weighted, by name. Terms of weight 0 are left out."""
        weights = {name: weight for name, weight in asdict(self.weights).items() if weight}
        terms = {name: self.term(name, forward, reverse, teacher, draw) for name in weights}
        return sum((weights[name] * loss for name, loss in terms.items()), draw.forward_time.new_zeros(())), terms
