"""What is done with drafts: which are kept, and what becomes of the others."""

import math
from dataclasses import dataclass

from fewstep.choices import require_choice, require_range
from fewstep.collaboration.rollback import Rollback

REPAIRS = ("keep", "refine", "regenerate")


@dataclass(frozen=True)
class Policy:
    """threshold: of the oracle's score; a draft below it is drawn again or goes to the teacher.

    repair: of what is below the threshold in the end. "refine": the teacher goes on from the draft, taken back by
        `rollback` (strategy R of Starodubcev et al. 2023); "regenerate": the teacher draws from the noise that the
        draft was drawn from (strategy G); "keep": the draft stays, and the threshold only tells.
    drafts: at most so many of the student for one prompt, as long as none reaches the threshold; the best of them by
        the oracle is kept or repaired.
    keep_best: the oracle also looks at what the teacher has made, and takes the better one.
    """

    threshold: float = -math.inf
    repair: str = "refine"
    rollback: Rollback = Rollback(0.5)
    drafts: int = 1
    keep_best: bool = False

    def __post_init__(self) -> None:
        require_choice("repair", self.repair, REPAIRS)
        require_range("drafts", self.drafts, 1)
        if math.isnan(self.threshold):
            raise ValueError("threshold=nan: give a number, -inf to keep all drafts or inf to keep none")
