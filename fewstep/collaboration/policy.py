"""What is done with drafts: which are kept, and what becomes of the others."""

import math
from dataclasses import dataclass

from fewstep.choices import require_choice, require_range
from fewstep.collaboration.rollback import Rollback

MOST_DRAFTS = 1000
REPAIRS = ("keep", "refine", "regenerate")


@dataclass(frozen=True)
class Policy:
    """threshold: of the oracle's score; a draft below it is repaired.

    repair: "refine": the teacher goes on from the draft, taken back by
        `rollback` (strategy R of Starodubcev et al. 2023); "regenerate": the teacher draws from the noise that the
        draft was drawn from (strategy G); "keep": the draft stays, and the threshold only tells.
    drafts: at most so many of the student for one prompt, as long as none reaches `good_enough`, None for the
        threshold; the best of them by the oracle is kept or repaired.
    keep_best: the oracle also looks at what the teacher has made, and takes the better one.
    """

    threshold: float = -math.inf
    repair: str = "refine"
    rollback: Rollback = Rollback(0.5)
    drafts: int = 1
    keep_best: bool = False
    good_enough: float | None = None

    def __post_init__(self) -> None:
        require_choice("repair", self.repair, REPAIRS)
        require_range("drafts", self.drafts, 1, MOST_DRAFTS)
        if math.isnan(self.threshold):
            raise ValueError("threshold=nan: give a number, -inf to keep all drafts or inf to keep none")
        if self.good_enough is not None and math.isnan(self.good_enough):
            raise ValueError("good_enough=nan: give a number")

    @property
    def enough(self) -> float:
        """The score at which no further draft is drawn."""
        return self.threshold if self.good_enough is None else self.good_enough
