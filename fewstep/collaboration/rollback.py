"""How far a draft is taken back towards noise before the teacher goes on from it."""

import math
from dataclasses import dataclass
from typing import Literal

import torch

from fewstep.choices import require_choice
from fewstep.diffusion.schedules import Schedule


@dataclass(frozen=True)
class Rollback:
    """A share of noise, inside (0, 1): as a "variance", the paper's sigma, or as a "time".

    "variance": sigma of x = sqrt(1 - sigma) draft + sqrt(sigma) noise (Starodubcev et al. 2023, Algorithm 1), of any
    schedule sigma_t^2 / (alpha_t^2 + sigma_t^2). "time": t itself, which diffusers calls `strength`. They differ much:
    on Stable Diffusion's schedule a time of 0.4 has a variance of 0.58.
    """

    value: float
    kind: Literal["variance", "time"] = "variance"

    def __post_init__(self) -> None:
        require_choice("rollback kind", self.kind, ("variance", "time"))
        if not 0 < self.value < 1:
            told = "keep takes the draft as it is, regenerate starts from noise alone"
            raise ValueError(f"rollback_{self.kind}={self.value}: must be inside (0, 1); {told}")

    def time(self, schedule: Schedule) -> float:
        """The first training step t in (0, 1] with at least so much noise; a time as it is."""
        if self.kind == "time":
            return self.value
        steps = schedule.num_train_timesteps
        log_snr = torch.tensor(math.log1p(-self.value) - math.log(self.value), dtype=torch.float64)
        if log_snr < schedule.log_snr(torch.ones(1, dtype=torch.float64)) - 1e-6:
            raise ValueError(f"rollback_variance={self.value}: the schedule ends with less noise; regenerate instead")
        return max(math.ceil(schedule.time(log_snr).item() * steps - 1e-6), 1) / steps
