"""What a run says of its consistency distillation, before the network's schedule is known."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from fewstep.choices import require_choice, require_range
from fewstep.diffusion.predictions import Parametrization
from fewstep.distillation.boundaries import Boundaries
from fewstep.distillation.consistency import ConsistencyDistillation, Weights
from fewstep.losses import pseudo_huber


@dataclass(frozen=True)
class DistillationOptions:
    """Settings of ConsistencyDistillation; the defaults are the paper's (Starodubcev et al. 2024, appendix A).

    boundaries: ends of the segments, 0 < .. < 1, as times or, with boundaries_in="log_snr", as the falling log-SNRs
    between the two ends: the same noise levels on another schedule. See fewstep.distillation.boundaries.
    start: where encoding starts, in the same unit; 0 (for log-SNRs, None) is the data itself.
    num_steps: teacher steps on a grid over [0, 1], on which the boundaries lie.
    loss_weights: of the terms of Eq. 5; a term of weight 0 is not computed. huber_c: of the pseudo-Huber distance.
    reverse_from: "noised", as in the paper, or "encoded": see ConsistencyDistillation.
    """

    boundaries: Sequence[float] = (0.0, 0.26, 0.52, 0.78, 1.0)
    boundaries_in: str = "time"
    start: float | None = 0.02
    num_steps: int = 50
    loss_weights: Weights = Weights()
    huber_c: float = 1e-3
    reverse_from: Literal["noised", "encoded"] = "noised"

    def __post_init__(self) -> None:
        require_choice("boundaries_in", self.boundaries_in, ("time", "log_snr"))
        require_range("distillation.num_steps", self.num_steps, 1)
        require_range("distillation.huber_c", self.huber_c, above=True)
        if self.boundaries_in == "time":  # before a network is fetched
            self._of_times().require_on_grid(self.num_steps)

    def of(self, parametrization: Parametrization) -> ConsistencyDistillation:
        """The losses for a network of this parametrization. ValueError in one line for ends that do not fit it."""
        steps = self.num_steps
        if self.boundaries_in == "log_snr":
            boundaries = Boundaries.from_log_snr(parametrization.schedule, self.boundaries, self.start, steps)
        else:
            boundaries = self._of_times()
        distance = partial(pseudo_huber, c=self.huber_c)
        return ConsistencyDistillation(
            parametrization, boundaries, steps, distance, self.loss_weights, reverse_from=self.reverse_from
        )

    def _of_times(self) -> Boundaries:
        return Boundaries(tuple(self.boundaries), 0.0 if self.start is None else self.start)
