"""How far a draft, or a picture that is edited, is taken back towards noise before a network goes on from it."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

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
    what: ClassVar[str] = "rollback"
    ends: ClassVar[str] = "keep takes the draft as it is, regenerate starts from noise alone"
    beyond: ClassVar[str] = "regenerate"

    def __post_init__(self) -> None:
        require_choice(f"{self.what} kind", self.kind, ("variance", "time"))
        if not 0 < self.value < 1:
            raise ValueError(f"{self.what}_{self.kind}={self.value}: must be inside (0, 1); {self.ends}")

    def time(self, schedule: Schedule) -> float:
        """The first training step t in (0, 1] with at least so much noise; a time as it is."""
        if self.kind == "time":
            return self.value
        steps = schedule.num_train_timesteps
        log_snr = torch.tensor(math.log1p(-self.value) - math.log(self.value), dtype=torch.float64)
        if log_snr < schedule.log_snr(torch.ones(1, dtype=torch.float64)) - 1e-6:
            told = f"the schedule ends with less noise; {self.beyond} instead"
            raise ValueError(f"{self.what}_variance={self.value}: {told}")
        return max(math.ceil(schedule.time(log_snr).item() * steps - 1e-6), 1) / steps


class EditStrength(Rollback):
    """The same share of noise, for a given picture before its drafts are drawn (SDEdit, Meng et al. 2022)."""

    what, ends = "edit", "towards 0 the picture stays as it is, 1 is to draw without one"
    beyond = "draw without a picture"
