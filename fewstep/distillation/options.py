"""What a run says of its consistency distillation, before the network's schedule is known."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from fewstep.choices import require_choice, require_range
from fewstep.diffusion.guidance import Distance
from fewstep.diffusion.predictions import Parametrization
from fewstep.distillation.boundaries import Boundaries
from fewstep.distillation.consistency import ConsistencyDistillation, Weights
from fewstep.losses import DISTANCES, pseudo_huber

PERCEPTUAL = "lpips"


@dataclass(frozen=True)
class SecondPhase:
    """loss_weights: in force from optimizer step `from_step` on, counted from 0, and no other; the full cycle alone.

    The step alone decides, so a run that is continued goes on in the phase in which it was.
    """

    from_step: int
    loss_weights: Weights = Weights(0.0, 0.0, 0.0, 0.0, full_cycle=1.0)

    def __post_init__(self) -> None:
        require_range("second_phase.from_step", self.from_step, 1)


@dataclass(frozen=True)
class DistillationOptions:
    """Settings of ConsistencyDistillation; the defaults are the paper's (Starodubcev et al. 2024, appendix A).

    boundaries: ends of the segments, 0 < .. < 1, as times or, with boundaries_in="log_snr", as the falling log-SNRs
    between the two ends: the same noise levels on another schedule. See fewstep.distillation.boundaries.
    start: where encoding starts, in the same unit; 0 (for log-SNRs, None) is the data itself.
    num_steps: teacher steps on a grid over [0, 1], on which the boundaries lie.
    loss_weights: of the terms of Eq. 5; a term of weight 0 is not computed. huber_c: of the pseudo-Huber distance.
    reverse_from: "noised", as in the paper, or "encoded": see ConsistencyDistillation.
    full_cycle_distance: of the term full_cycle, "pseudo_huber", "l2" or "l1" of latents, or "lpips" of the pictures
    that they decode to, as Inverse-and-Edit trains it. second_phase: weights in place of loss_weights from a step on.
    """

    boundaries: Sequence[float] = (0.0, 0.26, 0.52, 0.78, 1.0)
    boundaries_in: str = "time"
    start: float | None = 0.02
    num_steps: int = 50
    loss_weights: Weights = Weights()
    huber_c: float = 1e-3
    reverse_from: Literal["noised", "encoded"] = "noised"
    full_cycle_distance: str = "pseudo_huber"
    second_phase: SecondPhase | None = None

    def __post_init__(self) -> None:
        require_choice("boundaries_in", self.boundaries_in, ("time", "log_snr"))
        require_range("distillation.num_steps", self.num_steps, 1)
        require_range("distillation.huber_c", self.huber_c, above=True)
        require_choice("distillation.full_cycle_distance", self.full_cycle_distance, (*DISTANCES, PERCEPTUAL))
        if self.boundaries_in == "time":  # before a network is fetched
            self._of_times().require_on_grid(self.num_steps)

    def of(
        self, parametrization: Parametrization, perceptual: Callable[[], Distance] | None = None
    ) -> ConsistencyDistillation:
        """The losses for a network of this parametrization. ValueError in one line for ends that do not fit it.

        perceptual: makes the distance "lpips" of the network's latents.
        """
        steps = self.num_steps
        if self.boundaries_in == "log_snr":
            boundaries = Boundaries.from_log_snr(parametrization.schedule, self.boundaries, self.start, steps)
        else:
            boundaries = self._of_times()
        distance = partial(pseudo_huber, c=self.huber_c)
        return ConsistencyDistillation(
            parametrization,
            boundaries,
            steps,
            distance,
            self.loss_weights,
            cycle_distance=self._cycle_distance(perceptual),
            reverse_from=self.reverse_from,
        )

    def _cycle_distance(self, perceptual: Callable[[], Distance] | None) -> Distance | None:
        """None for the distance of all terms."""
        if self.full_cycle_distance == PERCEPTUAL:
            if perceptual is None:
                raise ValueError("full_cycle_distance='lpips' needs latents that decode to pictures; choose l2")
            return perceptual()
        return None if self.full_cycle_distance == "pseudo_huber" else DISTANCES[self.full_cycle_distance]

    def _of_times(self) -> Boundaries:
        return Boundaries(tuple(self.boundaries), 0.0 if self.start is None else self.start)
