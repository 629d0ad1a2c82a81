"""The times between which few-step students jump: Boundaries of the segments of [0, 1], 0 = data and 1 = noise."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from fewstep.diffusion.schedules import Schedule

_SLACK = 1e-5  # two times nearer than a hundredth of a training step are the same


@dataclass(frozen=True)
class Boundaries:
    """Ends of the m segments, 0 = times[0] < .. < times[m] = 1 (Starodubcev et al. 2024, section 3.2 and appendix A).

    start: where encoding starts, 0 <= start < times[1], after adding noise for that time. At 0 an "eps" teacher answers
    0 and adds no noise, so codes come out too small; the paper starts at 0.02. Decoding ends in 0 all the same, so the
    reverse student's answer at times[1] serves two ends, start and 0. A boundary of reverse_times at start (one more
    call) or start = 0 leaves it one.
    reverse_times: finer ends for decoding, among them all of `times`; None means `times`.
    The paper's runs: (0, .26, .52, .78, 1), (0, .26, .52, .7, 1), (0, .34, .7, 1), each with start = 0.02.
    """

    times: tuple[float, ...]
    start: float = 0.02
    reverse_times: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "times", tuple(self.times))
        object.__setattr__(self, "reverse_times", tuple(self.reverse_times or self.times))
        for name, times in (("boundaries", self.times), ("reverse_times", self.decode_times[::-1])):
            if len(times) < 2 or times[0] != 0 or times[-1] != 1:
                raise ValueError(f"{name}={list(times)}: must begin with 0 and end with 1")
            if any(not after - before > 1e-3 for before, after in pairwise(times)):  # also catches NaN
                raise ValueError(f"{name}={list(times)}: must rise by more than 0.001 each; sort them")
        if not 0 <= self.start < self.times[1] - _SLACK:
            raise ValueError(f"start={self.start}: must be at least 0 and below the next boundary, {self.times[1]:g}")
        if lacking := [t for t in self.times if min(abs(t - r) for r in self.decode_times) > _SLACK]:
            raise ValueError(f"reverse_times lack {lacking[0]:g}, which is among times; they may only be finer")

    @classmethod
    def even(cls, num_segments: int, num_steps: int = 50, start: float = 0.02) -> "Boundaries":
        """Segments of ceil(num_steps / num_segments) grid steps, the last one shorter: the defaults of iCD's code."""
        width = math.ceil(num_steps / num_segments)
        return cls((*(index * width / num_steps for index in range(num_segments)), 1.0), start)

    @classmethod
    def from_log_snr(
        cls, schedule: Schedule, inner: Sequence[float], start: float | None = None, num_steps: int | None = 50
    ) -> "Boundaries":
        """From falling log-SNRs between the ends, so that two schedules get segments of the same noise levels.

        start: log-SNR at which encoding starts; None starts at the data. num_steps: round to this grid; None does not.
        """
        wanted = torch.tensor([*([] if start is None else [start]), *inner], dtype=torch.float64)
        times = schedule.time(wanted).tolist()
        if num_steps is not None:
            times = [round(time * num_steps) / num_steps for time in times]
        first = 0 if start is None else 1
        return cls((0.0, *times[first:], 1.0), 0.0 if start is None else times[0])

    @property
    def encode_times(self) -> tuple[float, ...]:
        """start, times[1], .., 1."""
        return (self.start, *self.times[1:])

    @property
    def decode_times(self) -> tuple[float, ...]:
        """1, .., 0: the reverse times, falling."""
        return tuple(reversed(self.reverse_times or self.times))

    def forward_end(self, t: Tensor) -> Tensor:
        """The first of `times` above each t, shaped like t; 1 for t = 1. A boundary opens the one above."""
        end = torch.ones_like(t)
        for time in reversed(self.times[1:-1]):
            end = torch.where(t < time - _SLACK, time, end)
        return end

    def reverse_end(self, t: Tensor) -> Tensor:
        """The last of `reverse_times` below each t, shaped like t; 0 for t = 0. A boundary closes the one below."""
        end = torch.zeros_like(t)
        for time in reversed(self.decode_times[1:-1]):
            end = torch.where(t > time + _SLACK, time, end)
        return end

    def draw_segment(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """(low, high), the ends of a random segment, for uniform draws on [0, 1), shaped like them.

        The first segment begins at `start`: an encoder is never asked about less noise.
        """
        low, high = torch.full_like(uniform, self.start), torch.full_like(uniform, self.times[1])
        for index, (below, above) in enumerate(pairwise(self.times[1:]), 1):
            there = uniform * (len(self.times) - 1) >= index
            low, high = torch.where(there, below, low), torch.where(there, above, high)
        return low, high

    def most_reverse_steps(self, lowest: float) -> int:
        """Decoding steps in the segment that has the most, if the first ends in `lowest`; 1 without reverse_times."""
        ends, falling = (lowest, *self.times[1:]), self.decode_times
        return max(sum(low + _SLACK < time <= high + _SLACK for time in falling) for low, high in pairwise(ends))

    def require_on_grid(self, num_steps: int) -> None:
        """ValueError in one line unless all of these times are multiples of 1 / num_steps."""
        for time in (self.start, *self.decode_times):
            nearest = round(time * num_steps)
            if abs(time - nearest / num_steps) > _SLACK:
                remedy = f"{nearest / num_steps:g} is, or choose another num_steps"
                raise ValueError(f"boundary {time:g} is not on the grid of num_steps = {num_steps}; {remedy}")
