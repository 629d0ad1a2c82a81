"""Quality against passes: what calibrated policies return for new prompts, beside what they have to beat."""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewstep.choices import require_range
from fewstep.collaboration.calibration import Calibration
from fewstep.collaboration.costs import Costs
from fewstep.collaboration.policy import MOST_DRAFTS, Policy
from fewstep.collaboration.rehearsal import Rehearsal
from fewstep.collaboration.rollback import Rollback
from fewstep.collaboration.teacher import Teacher
from fewstep.metrics.intervals import bootstrap_mean


class Way(NamedTuple):
    """One way to draw N prompts. family: of those that differ in their price alone."""

    family: str
    name: str
    passes: Tensor  # float64 [N], with decoder and oracle
    scores: dict[str, Tensor]  # float64 [N] by the oracle and every judge
    repaired: Tensor  # float64 [N], the probability of each prompt
    policy: str | None = None
    by_lot: bool = False  # what is expected of each prompt, where a lot decides whether it is repaired

    def row(self) -> dict[str, Any]:
        """As plain values: means, their intervals of 95 % over prompts, and all of the values.

        What is expected under a lot has no quantiles of passes, and intervals without the spread of the lot itself.
        """
        ends = torch.tensor([0.5, 0.95], dtype=torch.float64)
        half, most = torch.quantile(self.passes, ends, interpolation="higher").tolist()
        told = {"family": self.family, "name": self.name, "policy": self.policy, "passes": self.passes.mean().item()}
        told |= dict.fromkeys(("passes_p50", "passes_p95")) if self.by_lot else {"passes_p50": half, "passes_p95": most}
        told["repaired"] = self.repaired.mean().item()
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
    done: Collection[str] = (),
) -> Iterator[Way]:
    """Adaptive policies for budgets of passes, each beside its random twin, and all that needs no calibration.

    most_drafts: of best-of-n (2, 4, ..), which spends all on the student. teacher_steps: of the teacher alone.
    rollbacks: variances, for refining everything, whatever the oracle says. done: names of ways that are left out.
    ValueError in one line for any of these that cannot be, before anything is drawn.
    """
    costs, cascade = calibration.costs, rehearsal.cascade
    require_range("best of", most_drafts, 1, MOST_DRAFTS)
    ways: list[tuple[str, Callable[[], Way]]] = []
    for number in teacher_steps:
        alone = replace(cascade.teacher, num_steps=number)
        ways.append((name := f"teacher {number}", partial(_teacher, rehearsal, costs, alone, name)))
    ways.append(("student", partial(_student, rehearsal, costs)))
    for drafts in (2**power for power in range(1, int(math.log2(most_drafts)) + 1)):
        policy = Policy(repair="keep", drafts=drafts, good_enough=math.inf)
        ways.append((name := f"best of {drafts}", partial(_policy, rehearsal, costs, policy, "best of n", name)))
    for variance in rollbacks:
        policy = Policy(math.inf, "refine", Rollback(variance))
        cascade.check_rollback(policy.rollback)
        ways.append((name := f"refine everything {variance:g}", partial(_blind, rehearsal, costs, policy, name)))
    for budget in budgets:
        policy, name = calibration.for_passes(budget), f"adaptive {budget:g}"
        ways.append((name, adaptive := partial(_policy, rehearsal, costs, policy, "adaptive", name)))
        ways.append((name := f"random {budget:g}", partial(_random, rehearsal, adaptive, policy, name)))
    return (make() for name, make in ways if name not in done)


def _student(rehearsal: Rehearsal, costs: Costs) -> Way:
    first = rehearsal.play(Policy())
    unseen = torch.full_like(first.draft_scores, costs.encode + costs.draft + costs.decode)
    return Way("student", "student", unseen, dict(first.scores), torch.zeros_like(unseen))


def _teacher(rehearsal: Rehearsal, costs: Costs, teacher: Teacher, name: str) -> Way:
    """The teacher alone, from the noise of the first drafts."""
    cascade, num = rehearsal.cascade, len(rehearsal.prompts)
    other, policy = replace(cascade, teacher=teacher), Policy(math.inf, "regenerate")
    if teacher.num_steps == cascade.teacher.num_steps:  # what repairs would draw, and are spared
        scores = dict(rehearsal.play(policy).scores)
    else:
        parts = cascade.parts(range(num))
        table = torch.cat([rehearsal.improved_scores(other, part, [0] * len(part), policy, None) for part in parts])
        scores = dict(zip(rehearsal.judges, table.unbind(1), strict=True))
    passes = costs.encode + costs.repair * teacher.num_steps / cascade.teacher.num_steps + costs.decode
    ones = torch.ones(num, dtype=torch.float64)
    return Way("teacher", name, passes * ones, scores, ones)


def _blind(rehearsal: Rehearsal, costs: Costs, policy: Policy, name: str) -> Way:
    """Repairing everything, whatever the oracle says, which is not asked."""
    played = rehearsal.play(policy)
    passes = torch.full_like(played.draft_scores, costs.encode + costs.draft + costs.of_repair(looked_at=False))
    return Way("refine everything", name, passes, dict(played.scores), played.repaired.double(), repr(policy))


def _random(rehearsal: Rehearsal, twin: Callable[[], Way], policy: Policy, name: str) -> Way:
    """As many passes and repairs, for prompts by lot, as what is expected of each prompt.

    A draft that is drawn again by lot, and taken whatever it is, is as good as the first one on average.
    """
    adaptive = twin()  # every picture is drawn once, so that it costs nothing
    share, blind = adaptive.repaired.mean(), replace(policy, drafts=1, good_enough=None, keep_best=False)
    kept = rehearsal.play(replace(blind, threshold=-math.inf))
    made = rehearsal.play(replace(blind, threshold=math.inf)) if share else kept
    scores = {judge: (1 - share) * kept.scores[judge] + share * made.scores[judge] for judge in kept.scores}
    ones = torch.ones_like(adaptive.passes)
    return Way("random", name, adaptive.passes.mean() * ones, scores, share * ones, repr(policy), by_lot=True)


def _policy(rehearsal: Rehearsal, costs: Costs, policy: Policy, family: str, name: str) -> Way:
    played = rehearsal.play(policy)
    passes = costs.of_pictures(played.drafts, played.repaired, policy)
    return Way(family, name, passes, dict(played.scores), played.repaired.double(), repr(policy))
