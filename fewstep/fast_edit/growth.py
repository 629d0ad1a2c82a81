"""A learning rate that grows while an edit is learnt, up to a cap.

DiffusionCLIP (Kim et al. 2022) has 1.2 every 50 updates in its paper and 1.3 every pass in its code, without a cap:
23 times the first after 12 passes, which is known to break edits.
"""

import math
from dataclasses import dataclass

from fewstep.choices import require_range


def grown(factor: float, number: int, cap: float) -> float:
    """min(cap, factor^number), which for a large number does not overflow."""
    return math.exp(min(number * math.log(factor), math.log(cap)))


@dataclass(frozen=True)
class Growth:
    """`growth(step)`, times the learning rate: `factor` after every `every` steps of the optimizer, at most `cap`.

    1 for none; below 1 it falls. A function of the step alone: a resumed run goes on where it was.
    """

    factor: float = 1.0
    every: int = 50
    cap: float = 3.0

    def __post_init__(self) -> None:
        require_range("growth.factor", self.factor, above=True)
        require_range("growth.every", self.every, 1)
        require_range("growth.cap", self.cap, 1)

    def __call__(self, step: int) -> float:
        return grown(self.factor, step // self.every, self.cap)
