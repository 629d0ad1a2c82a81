"""Ways to draft and repair, what they make of calibration prompts, and which of them a budget of passes chooses."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fewstep.choices import require_range
from fewstep.collaboration.cascade import Cascade
from fewstep.collaboration.costs import Costs
from fewstep.collaboration.policy import Policy
from fewstep.collaboration.rehearsal import ORACLE, Rehearsal
from fewstep.collaboration.rollback import Rollback
from fewstep.collaboration.routing import budget_threshold, deferred_at_most, percentile_threshold

ENOUGH = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.75)  # of first drafts


@dataclass(frozen=True)
class Strategy:
    """policy: how drafts are drawn and repaired, without a threshold. costs: of the cascade.

    scores: float64 [N], rising, the oracle's of the best draft of each calibration prompt. draws: int64 [N], how many
    drafts that took. repaired: float64 [N], the oracle's score of what becomes of that draft where it is repaired; NaN
    where it is good enough, and no threshold repairs it; None where nothing was asked of the teacher.
    """

    policy: Policy
    costs: Costs
    scores: Tensor
    draws: Tensor
    repaired: Tensor | None = None

    @classmethod
    def of(cls, rehearsal: Rehearsal, costs: Costs, policy: Policy, with_repairs: bool) -> "Strategy":
        """By drawing; ValueError in one line for several drafts without `good_enough`, as no threshold is known yet."""
        if policy.drafts > 1 and policy.good_enough is None:
            raise ValueError(
                f"drafts={policy.drafts}: say what score is good_enough, above which no further one is drawn"
            )
        highest = math.inf if policy.good_enough is None else policy.good_enough
        played = rehearsal.play(replace(policy, threshold=highest if with_repairs else -math.inf))
        scores, final = played.draft_scores, played.scores[ORACLE]
        if not (finite := scores.isfinite() & final.isfinite()).all():
            odd = torch.stack([scores, final], 1)[~finite].flatten()
            raise ValueError(f"the oracle's scores are not all finite, such as {odd[~odd.isfinite()][0]}; mend it")
        order = scores.argsort(stable=True)
        made = torch.where(played.repaired, final, torch.nan)[order] if with_repairs else None
        return cls(policy, costs, scores[order], played.drafts[order], made)

    @property
    def draft_passes(self) -> float:
        """For the drafts of a picture and the oracle's looks at them, on average."""
        return self.costs.encode + self.draws.double().mean().item() * self.costs.judged_draft

    @property
    def repair_passes(self) -> float:
        """For one picture that the teacher is asked for."""
        return self.costs.of_repair(self.policy.keep_best)

    def for_percentile(self, k: float) -> Policy:
        """That repairs k per cent of drafts like those of the calibration; the paper's way."""
        return replace(self.policy, threshold=percentile_threshold(self.scores, k))

    def for_passes(self, mean_passes: float) -> Policy:
        """That costs at most so many passes a picture, on average over prompts like these. ValueError as `share`."""
        if self.policy.repair == "keep":
            raise ValueError("the policy repairs nothing, so its passes are what they are; choose refine or regenerate")
        threshold = budget_threshold(self.scores, self.share(mean_passes))
        enough = self.policy.good_enough
        return replace(self.policy, threshold=threshold if enough is None else min(threshold, enough))

    def share(self, mean_passes: float) -> float:
        """Of drafts that can be repaired for so many passes a picture; at most 1.

        ValueError in one line for fewer than the drafts alone take.
        """
        require_range("mean_passes", mean_passes, above=True)
        if mean_passes < self.draft_passes:
            told = f"drafts and the oracle alone take {self.draft_passes:.3g}"
            raise ValueError(f"mean_passes={mean_passes:g}: {told}; give more")
        return min((mean_passes - self.draft_passes) / self.repair_passes, 1.0)

    def passes_at_most(self, share: float, confidence: float = 0.95) -> float:
        """What mean passes stay below with this confidence, by what is known of the share alone."""
        return self.draft_passes + deferred_at_most(len(self.scores), share, confidence) * self.repair_passes

    def expected(self, thresholds: Tensor) -> Tensor:
        """The oracle's score of what is returned under each [T], on average over the calibration prompts."""
        if self.repaired is None:
            raise ValueError("nothing is known of repairs: the calibration has drawn drafts only")
        gains = (self.repaired - self.scores).nan_to_num().cumsum(0)  # of repairing all up to this one
        num = torch.searchsorted(self.scores, thresholds)  # below the threshold
        return self.scores.mean() + torch.cat([gains.new_zeros(1), gains])[num] / len(self.scores)

    def best_below(self, threshold: float) -> tuple[float, float]:
        """Of all thresholds up to this one that with the highest expected score, and that score."""
        values = torch.tensor([-math.inf, threshold], dtype=torch.float64)
        values = torch.cat([values, self.scores[self.scores < threshold]]).unique()
        expected = self.expected(values)
        best = int(expected.argmax())
        return values[best].item(), expected[best].item()


def menu(rehearsal: Rehearsal, most_drafts: int = 4) -> list[Policy]:
    """What calibration chooses from: drafts kept, refined from several depths, or drawn by the teacher anew.

    One draft for each prompt, or up to 2, 4, .. `most_drafts` until one is better than a share ENOUGH of first drafts:
    low shares ask again where the worst are, which is what few passes are best spent on. And the teacher's picture
    taken always, or where the oracle finds it better. Depths that the cascade cannot refine from, as those below an
    edit's own, are left out.
    """
    first = rehearsal.play(Policy()).draft_scores
    enough = torch.quantile(first, first.new_tensor(ENOUGH)).unique().tolist()
    powers = [2**power for power in range(1, int(math.log2(most_drafts)) + 1)]
    drawing = [(1, None), *((drafts, score) for drafts in powers for score in enough)]
    depths = [Rollback(variance) for variance in (0.5, 0.7, 0.9)]
    possible = [depth for depth in depths if _can_refine(rehearsal.cascade, depth)]
    repairs = [("regenerate", Rollback(0.5)), *(("refine", depth) for depth in possible)]
    found = [Policy(repair="keep", drafts=drafts, good_enough=score) for drafts, score in drawing]
    return found + [
        Policy(-math.inf, repair, rollback, drafts, best, score)
        for repair, rollback in repairs
        for best in (False, True)
        for drafts, score in drawing
    ]


def _can_refine(cascade: Cascade, rollback: Rollback) -> bool:
    try:
        cascade.check_rollback(rollback)
    except ValueError:
        return False
    return True


def chosen(strategies: Sequence[Strategy], mean_passes: float) -> tuple[Strategy, Policy]:
    """The one with the highest expected score for at most so many passes, or for fewer; of equal ones the first.

    ValueError in one line where even the cheapest takes more.
    """
    require_range("mean_passes", mean_passes, above=True)
    possible = [strategy for strategy in strategies if strategy.draft_passes <= mean_passes]
    if not possible:
        least = min(strategy.draft_passes for strategy in strategies)
        raise ValueError(f"mean_passes={mean_passes:g}: drafts and the oracle alone take {least:.3g}; give more")
    policies, scores = [], []
    for strategy in possible:
        most = -math.inf if strategy.policy.repair == "keep" else strategy.for_passes(mean_passes).threshold
        threshold, score = strategy.best_below(most)
        policies.append(replace(strategy.policy, threshold=threshold))
        scores.append(score)
    best = scores.index(max(scores))
    return possible[best], policies[best]


def worth_keeping(strategies: Sequence[Strategy]) -> list[Strategy]:
    """Those that some budget chooses."""
    least = min(strategy.draft_passes for strategy in strategies)
    most = max(strategy.draft_passes + strategy.repair_passes for strategy in strategies)
    budgets = torch.linspace(least, most, 200, dtype=torch.float64).tolist()
    kept = {id(chosen(strategies, budget)[0]) for budget in budgets}
    return [strategy for strategy in strategies if id(strategy) in kept]
