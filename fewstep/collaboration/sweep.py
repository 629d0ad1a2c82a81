"""Quality against passes: what calibrated policies return for new prompts, beside what they have to beat."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewstep.collaboration.calibration import Calibration
from fewstep.collaboration.costs import Costs
from fewstep.collaboration.policy import Policy
from fewstep.collaboration.rehearsal import Played, Rehearsal
from fewstep.collaboration.rollback import Rollback
from fewstep.metrics.intervals import bootstrap_mean


class Way(NamedTuple):
    """One way to draw N prompts. family: of those that differ in their price alone."""

    family: str
    name: str
    passes: Tensor  # float64 [N], with decoder and oracle
    scores: dict[str, Tensor]  # float64 [N] by the oracle and every judge
    repaired: Tensor  # float64 [N], the probability of each prompt
    policy: str | None = None

    def row(self) -> dict[str, Any]:
        """As plain values: means, their intervals of 95 % over prompts, and all of the values."""
        ends = torch.tensor([0.5, 0.95], dtype=torch.float64)
        half, most = torch.quantile(self.passes, ends, interpolation="higher").tolist()
        told = {"family": self.family, "name": self.name, "policy": self.policy, "passes": self.passes.mean().item()}
        told |= {"passes_p50": half, "passes_p95": most, "repaired": self.repaired.mean().item()}
        means = {name: [values.mean().item(), *bootstrap_mean(values)] for name, values in self.scores.items()}
        each = {"passes": self.passes.tolist()} | {name: values.tolist() for name, values in self.scores.items()}
        return told | {"scores": means, "values": each}


def sweep(
    rehearsal: Rehearsal,
    calibration: Calibration,
    budgets: Sequence[float],
    most_drafts: int = 8,
    teacher_steps: Sequence[int] = (),
    rollbacks: Sequence[float] = (0.5,),
) -> Iterator[Way]:
    """Adaptive policies for budgets of passes, each beside its random twin, and all that needs no calibration.

    most_drafts: of best-of-n (2, 4, ..), which spends all on the student. teacher_steps: of the teacher alone.
    rollbacks: variances, for refining everything, whatever the oracle says.
    """
    costs = calibration.costs
    yield from teachers(rehearsal, costs, teacher_steps)
    first = rehearsal.play(Policy())
    unseen = torch.full_like(first.draft_scores, costs.draft + costs.decode)
    yield Way("student", "student", unseen, dict(first.scores), torch.zeros_like(unseen))
    for drafts in (2**power for power in range(1, int(math.log2(most_drafts)) + 1)):
        policy = Policy(repair="keep", drafts=drafts, good_enough=math.inf)
        yield _way("best of n", f"best of {drafts}", costs, rehearsal.play(policy), policy)
    for variance in rollbacks:
        policy = Policy(math.inf, "refine", Rollback(variance))
        yield _blind(rehearsal, costs, policy, f"refine everything {variance:g}")
    for budget in budgets:
        policy = calibration.for_passes(budget)
        played = rehearsal.play(policy)
        yield _way("adaptive", f"adaptive {budget:g}", costs, played, policy)
        yield _random(rehearsal, costs, played, policy, f"random {budget:g}")


def teachers(rehearsal: Rehearsal, costs: Costs, steps: Sequence[int]) -> Iterator[Way]:
    """The teacher alone, in so many steps each, from the noise of the first drafts."""
    cascade, num = rehearsal.cascade, len(rehearsal.prompts)
    for number in steps:
        alone = replace(cascade, teacher=replace(cascade.teacher, num_steps=number))
        policy, found = Policy(math.inf, "regenerate"), []
        for part in cascade.parts(range(num)):
            found.append(rehearsal.improved_scores(alone, part, [0] * len(part), policy, None))
        passes = costs.repair * number / cascade.teacher.num_steps + costs.decode
        table = torch.cat(found)
        scores = dict(zip(rehearsal.judges, table.unbind(1), strict=True))
        ones = torch.ones(num, dtype=torch.float64)
        yield Way("teacher", f"teacher {number}", passes * ones, scores, ones)


def _blind(rehearsal: Rehearsal, costs: Costs, policy: Policy, name: str) -> Way:
    """Repairing everything, whatever the oracle says, which is not asked."""
    played = rehearsal.play(policy)
    passes = torch.full_like(played.draft_scores, costs.draft + costs.of_repair(looked_at=False))
    return Way("refine everything", name, passes, dict(played.scores), played.repaired.double(), repr(policy))


def _random(rehearsal: Rehearsal, costs: Costs, played: Played, policy: Policy, name: str) -> Way:
    """The same share of the same repairs for prompts by lot, as what is expected of each prompt."""
    share = played.repaired.double().mean()
    kept = rehearsal.play(replace(policy, threshold=-math.inf, good_enough=policy.enough))
    made = rehearsal.play(replace(policy, threshold=math.inf, good_enough=policy.enough)) if share else kept
    scores = {judge: (1 - share) * kept.scores[judge] + share * made.scores[judge] for judge in kept.scores}
    ones = torch.ones_like(kept.draft_scores)
    passes = costs.of_pictures(kept.drafts, share * ones, policy)
    return Way("random", name, passes, scores, share * ones, repr(policy))


def _way(family: str, name: str, costs: Costs, played: Played, policy: Policy) -> Way:
    passes = costs.of_pictures(played.drafts, played.repaired, policy)
    return Way(family, name, passes, dict(played.scores), played.repaired.double(), repr(policy))
