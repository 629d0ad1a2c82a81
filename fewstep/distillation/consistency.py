"""Invertible consistency distillation: one student encodes (data -> noise), one decodes, each in a few jumps.

Starodubcev et al., "Invertible Consistency Distillation for Text-Guided Image Editing in Around 7 Steps" (2024).
A student's answer at (x_t, t) is its jump to the end of t's segment (Eq. 3): up for `forward`, down for `reverse`.
Every loss is [B]. Targets carry no gradient.

Each loss is a generator of calls to the networks, so that the losses of one iteration are computed side by side: see
fewstep.distillation.network_calls.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from fewstep.choices import require_range
from fewstep.diffusion.guidance import Condition, Distance
from fewstep.diffusion.predictions import Parametrization
from fewstep.diffusion.schedules import per_sample
from fewstep.diffusion.solvers import time_like
from fewstep.distillation.boundaries import Boundaries
from fewstep.distillation.network_calls import Call, Losses, Networks, Role, side_by_side
from fewstep.losses import pseudo_huber


@dataclass(frozen=True)
class Weights:
    """Weights of the summed objective (Eq. 5, section 4.1). A term of weight 0 is not computed."""

    forward_cd: float = 1.0
    reverse_cd: float = 1.0
    forward_preservation: float = 1.5
    reverse_preservation: float = 1.5
    full_cycle: float = 0.0
    code_moment: float = 0.0

    def __post_init__(self) -> None:
        for name, weight in asdict(self).items():
            require_range(f"loss_weights.{name}", weight)
        if not any(asdict(self).values()):
            raise ValueError("loss_weights: all are 0, which leaves nothing to train; give one of them more")


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
    cycle_distance: of the full cycle, such as LPIPS of the decoded pictures; None means `distance`.
    averaged_target: consistency targets are those of the moving average of the student, the role "target" (Song et al.
        2023, Algorithm 2), instead of the student's own.
    time_weight: of consistency losses, t [B] -> [B]; None weights every time alike.
    reverse_from: what reverse preservation starts from and returns to. "noised": data with noise, as in the paper.
        "encoded": the states that the encoder makes of the data, which differ from it, and in the first segment the
        data themselves; an addition of fewstep's.
    """

    parametrization: Parametrization
    boundaries: Boundaries
    num_steps: int = 50
    distance: Distance = pseudo_huber
    weights: Weights = field(default_factory=Weights)
    teacher_parametrization: Parametrization | None = None
    cycle_distance: Distance | None = None
    reverse_from: Literal["noised", "encoded"] = "noised"
    averaged_target: bool = False
    time_weight: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        if self.reverse_from not in ("noised", "encoded"):
            raise ValueError(f'reverse_from {self.reverse_from!r} is unknown; choose "noised" or "encoded"')
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

    def forward_cd(self, draw: Draw) -> Losses:
        """Consistency of the encoder along one unguided teacher step to more noise."""
        unguided = torch.ones_like(draw.forward_time)
        return self._consistency("forward", draw, draw.forward_time, 1, self.boundaries.forward_end, unguided)

    def reverse_cd(self, draw: Draw) -> Losses:
        """Consistency of the decoder along one guided teacher step to less noise (Eq. 2)."""
        scale = draw.guidance_scale
        return self._consistency("reverse", draw, draw.reverse_time, -1, self.boundaries.reverse_end, scale)

    def _consistency(
        self,
        student: Role,
        draw: Draw,
        t: Tensor,
        direction: int,
        segment_end: Callable[[Tensor], Tensor],
        guidance_scale: Tensor,
    ) -> Losses:
        near = ((t * self.num_steps).round() + direction) / self.num_steps  # one grid step on, [B]
        end = segment_end(t)
        x = self.parametrization.add_noise(draw.data, draw.noise, t)
        output = yield Call("teacher", x, t, guidance_scale, draw.condition)
        stepped = (self.teacher_parametrization or self.parametrization).jump(x, output, t, near)
        target: Role = "target" if self.averaged_target else student
        output = yield Call(target, stepped, near, guidance_scale, draw.condition)
        goal = self.parametrization.jump(stepped, output, near, end)
        goal = torch.where(per_sample((near - end).abs() < 1e-6, x), stepped, goal)  # "x0" at t = 0 would be 0 / 0
        output = yield Call(student, x, t, guidance_scale, draw.condition, gradient=True)
        losses = self.distance(self.parametrization.jump(x, output, t, end), goal)
        return losses if self.time_weight is None else self.time_weight(t) * losses

    def forward_preservation(self, draw: Draw) -> Losses:
        """How far the encoder is from undoing the decoder on a segment, unguided; trains `forward` only (Eq. 4)."""
        x = self.parametrization.add_noise(draw.data, draw.noise, draw.high)
        lowered = yield from self._descend(x, draw, gradient=False)
        raised = yield from self._ascend(lowered, draw, gradient=True)
        return self.distance(raised, x)

    def reverse_preservation(self, draw: Draw) -> Losses:
        """How far the decoder is from undoing the encoder on a segment, unguided; trains `reverse` only (3.3)."""
        if self.reverse_from == "encoded":
            return (yield from self._return_to_encoded(draw))
        x = self.parametrization.add_noise(draw.data, draw.noise, draw.low)
        raised = yield from self._ascend(x, draw, gradient=False)
        lowered = yield from self._descend(raised, draw, gradient=True)
        return self.distance(lowered, x)

    def _return_to_encoded(self, draw: Draw) -> Losses:
        """How far the decoder is from undoing the encoder on a segment of its own way from the data to the code."""
        times = self.boundaries.encode_times
        x = self.parametrization.add_noise(draw.data, draw.noise, time_like(draw.data, self.boundaries.start))
        states = yield from self._chain("forward", x, times, draw.condition)
        goal = _at(draw.low, times[:-1], [draw.data, *states[1:-1]])
        to_data = draw._replace(low=torch.where(draw.low < times[1] - 1e-6, 0.0, draw.low))
        lowered = yield from self._descend(_at(draw.high, times, states), to_data, gradient=True, lowest=0.0)
        return self.distance(lowered, goal)

    def _chain(
        self, student: Role, x: Tensor, times: Sequence[float], condition: Condition, gradient: bool = False
    ) -> Generator[Call, Tensor, list[Tensor]]:
        """The states [B, ...] at `times`, of which the first is x; unguided."""
        states = [x]
        for start, end in pairwise(times):
            t, s = time_like(x, start), time_like(x, end)
            output = yield Call(student, states[-1], t, torch.ones_like(t), condition, gradient)
            states.append(self.parametrization.jump(states[-1], output, t, s))
        return states

    def _ascend(self, x: Tensor, draw: Draw, gradient: bool) -> Losses:
        output = yield Call("forward", x, draw.low, torch.ones_like(draw.low), draw.condition, gradient)
        return self.parametrization.jump(x, output, draw.low, draw.high)

    def _descend(self, x: Tensor, draw: Draw, gradient: bool, lowest: float | None = None) -> Losses:
        """All decoding jumps of a segment. Rows that need fewer than the most jump high -> high, which is exact."""
        t, high = draw.high, draw.high
        for _ in range(self.boundaries.most_reverse_steps(self.boundaries.start if lowest is None else lowest)):
            moving = t > draw.low + 1e-6
            source = torch.where(moving, t, high)
            end = torch.where(moving, torch.maximum(self.boundaries.reverse_end(t), draw.low), high)
            output = yield Call("reverse", x, source, torch.ones_like(t), draw.condition, gradient)
            x = self.parametrization.jump(x, output, source, end)
            t = torch.where(moving, end, t)
        return x

    def full_cycle(self, draw: Draw) -> Losses:
        """Distance of decode(encode(data)) to the clean data, unguided; trains both through the whole chain.

        With the LPIPS of decoded pictures as `cycle_distance` it is the loss of Inverse-and-Edit (2025).
        """
        x = self.parametrization.add_noise(draw.data, draw.noise, time_like(draw.data, self.boundaries.start))
        encoded = yield from self._chain("forward", x, self.boundaries.encode_times, draw.condition, gradient=True)
        code, times = encoded[-1], self.boundaries.decode_times
        x = (yield from self._chain("reverse", code, times, draw.condition, gradient=True))[-1]
        return (self.cycle_distance or self.distance)(x, draw.data)

    def code_moment(self, draw: Draw) -> Losses:
        """(mean z^2 - alpha^2 mean data^2 - sigma^2)^2, where z is the encoder's state at the end of a segment.

        What goes there and back is blind to a scale of the codes; this fixes it: noised data have that mean square over
        their elements in the mean over noise, at t = 1 about 1. An addition of fewstep's; trains `forward` only, by its
        last jump.
        """
        times = self.boundaries.encode_times[:-1]
        x = self.parametrization.add_noise(draw.data, draw.noise, time_like(draw.data, self.boundaries.start))
        states = yield from self._chain("forward", x, times, draw.condition)
        raised = yield from self._ascend(_at(draw.low, times, states), draw, gradient=True)
        alpha, sigma = self.parametrization.schedule(draw.high)
        wanted = alpha.square() * draw.data.float().square().flatten(1).mean(1) + sigma.square()
        return (raised.float().square().flatten(1).mean(1) - wanted).square()

    def term(self, name: str, networks: Networks, draw: Draw) -> Tensor:
        """One loss [B] by its name in `Weights`, not weighted: for an optimizer step per term, as the authors do."""
        if name not in asdict(self.weights):
            raise ValueError(f"loss term {name!r} is unknown; choose one of {', '.join(asdict(self.weights))}")
        return side_by_side(networks, [getattr(self, name)(draw)])[0]

    def objective(self, networks: Networks, draw: Draw) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum [B] (Eq. 5) and its terms [B], not weighted, by name. Terms of weight 0 are left out."""
        weights = {name: weight for name, weight in asdict(self.weights).items() if weight}
        losses = side_by_side(networks, [getattr(self, name)(draw) for name in weights])
        terms = dict(zip(weights, losses, strict=True))
        return sum((weights[name] * loss for name, loss in terms.items()), draw.forward_time.new_zeros(())), terms


def _at(t: Tensor, times: Sequence[float], states: Sequence[Tensor]) -> Tensor:
    """Of each row [B] the state [B, ...] that belongs to its time t [B]."""
    found = states[0]
    for time, state in zip(times, states, strict=True):
        found = torch.where(per_sample((t - time).abs() < 1e-6, state), state, found)
    return found
