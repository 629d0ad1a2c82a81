"""What a budget chooses, against a search over everything; what a menu tells, against the cascade."""

import math
from dataclasses import replace

import pytest
import torch

from fewstep.collaboration.calibration import Calibration
from fewstep.collaboration.cascade import Cascade
from fewstep.collaboration.costs import Costs
from fewstep.collaboration.policy import Policy
from fewstep.collaboration.rehearsal import Rehearsal
from fewstep.collaboration.rollback import Rollback
from fewstep.collaboration.strategies import ENOUGH, Strategy, chosen, menu, worth_keeping
from fewstep.collaboration.student import load_a_student
from fewstep.collaboration.teacher import Teacher
from tests.fewstep.collaboration.test_cascade import PROMPTS, SEEDS, redness
from tests.tiny_diffusion import write_pipeline

COSTS = Costs(draft=1.0, look=1.0, repair=9.0, decode=1.0, flops=1e6)
REFINE = Policy(repair="refine", rollback=Rollback(0.5))


def strategy(policy, scores, repaired, draws=None):
    values = torch.tensor(scores, dtype=torch.float64)
    counts = torch.ones(len(scores), dtype=torch.int64) if draws is None else torch.tensor(draws)
    return Strategy(policy, COSTS, values, counts, torch.tensor(repaired, dtype=torch.float64))


def expected(found, *thresholds):
    return found.expected(torch.tensor(thresholds, dtype=torch.float64)).tolist()


def test_what_is_expected_is_the_mean_of_what_is_returned():
    found = strategy(REFINE, [-4.0, -2.0, 0.0, 1.0], [2.0, 1.0, -1.0, math.nan])
    thresholds = [-math.inf, -2.0, -1.5, 0.0, 0.5]  # one at the threshold is kept
    means = [-1.25, (2 - 2 + 0 + 1) / 4, (2 + 1 + 0 + 1) / 4, (2 + 1 + 0 + 1) / 4, (2 + 1 - 1 + 1) / 4]
    assert expected(found, *thresholds) == means
    assert found.best_below(math.inf) == (0.0, 1.0)  # repairing the third makes it worse
    assert found.best_below(-2.0) == (-2.0, 0.25)
    assert found.best_below(-math.inf) == (-math.inf, -1.25)
    with pytest.raises(ValueError, match="nothing is known of repairs"):
        expected(replace(found, repaired=None), 0.0)


def test_a_budget_chooses_the_best_strategy():
    """Drafts take 2 passes, a repair 10. Refining gains a little on each, drawing anew a lot on the worst."""
    scores = [-8.0, -1.0, -0.9, -0.8, -0.7, -0.6, -0.5, -0.4, -0.3]
    refine = strategy(REFINE, scores, [score + 0.5 for score in scores])
    anew = strategy(Policy(repair="regenerate"), scores, [-0.2] + [-2.0] * 8)
    again = strategy(Policy(repair="keep", drafts=2, good_enough=-0.85), [-0.7] * 9, [math.nan] * 9, [2] * 3 + [1] * 6)
    assert chosen([refine, anew], 2.0)[1].threshold == -math.inf
    found, policy = chosen([refine, anew], 4.0)
    assert found is anew
    assert expected(found, policy.threshold) == pytest.approx([(-0.2 + sum(scores[1:])) / 9])
    assert chosen([anew], 12.0)[1] == policy  # more repairs make it worse
    best = replace(refine, repaired=refine.repaired + 7)  # of the worst -0.5
    assert chosen([best, anew], 12.0)[1] == replace(REFINE, threshold=math.inf)
    assert chosen([refine, anew, again], 2.6)[0] is not again  # its drafts alone take 2.67
    found, policy = chosen([refine, anew, again], 2.7)
    assert found is again
    assert policy == replace(again.policy, threshold=-math.inf)
    assert chosen([best, anew, again], 12.0)[0] is best
    with pytest.raises(ValueError, match=r"mean_passes=1: drafts and the oracle alone take 2; give more"):
        chosen([refine, anew], 1.0)
    useless = strategy(Policy(repair="regenerate", keep_best=True), scores, scores)
    assert worth_keeping([best, anew, again, useless]) == [best, anew, again]


def test_no_threshold_repairs_what_is_good_enough():
    policy = replace(REFINE, drafts=2, good_enough=-1.0)
    found = strategy(policy, [-3.0, -2.0, -1.0, 0.0], [0.0, 0.0, math.nan, math.nan], [2, 2, 2, 1])
    assert found.for_passes(99).threshold == -1.0
    assert expected(found, found.for_passes(99).threshold) == [(0 + 0 - 1 + 0) / 4]


@pytest.fixture(scope="module")
def cascade(tmp_path_factory):
    student = load_a_student(write_pipeline(tmp_path_factory.mktemp("strategies") / "pipeline", "sd_v"))
    return Cascade(student, Teacher(student.model, 2, 2.0), redness, student_steps=1)


@pytest.fixture(scope="module")
def rehearsal(cascade):
    return Rehearsal(cascade, PROMPTS, SEEDS)


def test_a_menu_tells_what_the_cascade_returns(cascade, rehearsal):
    """Every strategy at a threshold of its own, drawn by the cascade and scored again."""
    policies = menu(rehearsal, most_drafts=2)
    drawing = 1 + len(ENOUGH)
    assert len(policies) == drawing + drawing * 2 * 4
    for policy in (policies[2], policies[9], policies[-1]):
        found = Strategy.of(rehearsal, COSTS, policy, with_repairs=True)
        allowed = found.for_passes(7) if policy.repair != "keep" else policy
        drawn = cascade(PROMPTS, SEEDS, allowed)
        mean = redness(drawn.images, SEEDS).double().mean().item()
        assert expected(found, allowed.threshold) == pytest.approx([mean], abs=1e-4)


def test_calibration_keeps_what_budgets_choose(rehearsal, tmp_path):
    found = Calibration.of(rehearsal, COSTS, None)
    assert 1 <= len(found.strategies) < 52
    found.save(tmp_path / "calibration.json")
    again = Calibration.load(tmp_path / "calibration.json")
    scores = []
    for budget in (3, 5, 8, 12, 20):
        policy = found.for_passes(budget)
        assert again.for_passes(budget) == policy
        played = rehearsal.play(policy)
        assert COSTS.of_pictures(played.drafts, played.repaired, policy).mean() <= budget + 1e-9
        scores.append(played.scores["oracle"].mean().item())
    assert scores == sorted(scores)  # more passes are never used for less
    with pytest.raises(ValueError, match="k is for one strategy"):
        found.for_percentile(50)
