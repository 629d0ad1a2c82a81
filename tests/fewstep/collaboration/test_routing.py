"""Promises kept on fresh draws: against closed forms (Beta, binomial) and by counting."""

import math

import pytest
import torch
from scipy.stats import beta, binom

from fewstep.collaboration.routing import (
    StreamingThreshold,
    budget_threshold,
    certified_threshold,
    conformal_threshold,
    deferred_at_most,
    most_needy,
    percentile_threshold,
)


def uniform(*size, seed=0):
    return torch.rand(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_percentiles_and_their_ends():
    scores = torch.arange(11.0)
    assert percentile_threshold(scores, 50) == 5
    assert percentile_threshold(scores, 25) == 2.5
    assert percentile_threshold(scores, 0) == -math.inf  # keeps even the lowest
    assert percentile_threshold(scores, 100) == math.inf  # defers even the highest, which "<" alone would keep
    for k in (-1, 101, math.nan):
        with pytest.raises(ValueError, match=r"k=.*must be at least 0 and at most 100"):
            percentile_threshold(scores, k)


@pytest.mark.parametrize(("num", "share"), [(9, 0.5), (20, 0.3), (99, 0.29), (500, 0.5)])
def test_the_budget_holds_in_expectation_and_its_law_is_beta(num, share):
    """Scores are uniform, so the deferred share under a threshold is the threshold itself."""
    thresholds = torch.tensor([budget_threshold(row, share) for row in uniform(2000, num)])
    rank = math.floor(share * (num + 1) + 1e-9)
    law = beta(rank, num + 1 - rank)
    assert law.mean() <= share + 1e-12
    assert thresholds.mean().item() == pytest.approx(law.mean(), abs=4 * law.std() / 2000**0.5)
    above = (thresholds > deferred_at_most(num, share, 0.9)).double().mean().item()
    assert above == pytest.approx(0.1, abs=0.03)


def test_a_budget_of_nothing_and_of_everything():
    assert budget_threshold(uniform(9), 0) == budget_threshold(uniform(9), 0.099) == -math.inf
    assert budget_threshold(uniform(9), 1) == math.inf
    assert deferred_at_most(9, 0) == 0
    assert deferred_at_most(9, 1) == 1


def test_equal_scores_stay_within_the_budget():
    scores = torch.tensor([0.0] * 5 + [1.0] * 5)
    threshold = budget_threshold(scores, 0.7)
    assert threshold == 1
    assert (scores < threshold).double().mean() <= 0.7
    assert (scores < budget_threshold(scores, 0.3)).sum() == 0  # half of them, or none


def drafts(rows, num, seed=0):
    """Scores in [0, 1], and whether each draft is bad, with probability 1 - score."""
    draws = uniform(2, rows, num, seed=seed)
    return draws[0], draws[1] > draws[0]


def true_risk(threshold):
    """P(score >= threshold and bad) of such drafts."""
    return (1 - min(max(threshold, 0), 1)) ** 2 / 2


@pytest.mark.parametrize("confidence", [0.8, 0.95])
@pytest.mark.parametrize("num", [100, 400])
def test_quality_is_promised_with_the_confidence_that_was_asked_for(num, confidence):
    thresholds = [certified_threshold(*row, 0.1, confidence) for row in zip(*drafts(1000, num), strict=True)]
    broken = sum(true_risk(threshold) > 0.1 for threshold in thresholds)
    assert broken <= binom.ppf(0.9999, 1000, 1 - confidence)
    assert broken > 0.2 * 1000 * (1 - confidence)  # and is not bought by deferring everything
    exact = 1 - math.sqrt(0.2)
    assert sum(thresholds) / 1000 == pytest.approx(exact, abs=0.2 if num == 100 else 0.1)


def test_the_bound_is_that_of_clopper_and_pearson():
    """The bound of c bad ones of N is where a binomial has only 1 - confidence for c or fewer."""
    scores, bad = torch.arange(60.0), torch.tensor([True, False] * 30)
    for most in (0.2, 0.3, 0.45):
        threshold = certified_threshold(scores, bad, most, 0.9)
        kept = int((bad & (scores >= threshold)).sum())
        assert binom.cdf(kept, 60, most) <= 0.1 + 1e-9 < binom.cdf(kept + 1, 60, most)


def test_nothing_bad_needs_no_teacher_and_too_few_prompts_promise_nothing():
    good = torch.zeros(100, dtype=torch.bool)
    assert certified_threshold(uniform(100), good, 0.05, 0.95) == -math.inf
    assert certified_threshold(uniform(100), ~good, 0.05, 0.95) < math.inf  # one may be kept
    with pytest.raises(ValueError, match=r"58 calibration prompts cannot promise at most 0\.05 .* it takes 59"):
        certified_threshold(uniform(58), good[:58], 0.05, 0.95)


@pytest.mark.parametrize("num", [30, 300])
def test_conformal_risk_control_holds_on_average(num):
    scores, bad = drafts(2000, num)
    risks = [true_risk(conformal_threshold(*row, 0.15)) for row in zip(scores, bad.double(), strict=True)]
    spread = torch.tensor(risks).std().item() / 2000**0.5
    assert sum(risks) / 2000 <= 0.15 + 3 * spread
    assert sum(risks) / 2000 > 0.15 - 2 / (num + 1) - 3 * spread  # Theorem 2
    with pytest.raises(ValueError, match=r"losses run from 0 to 2; give them in \[0, 1\]"):
        conformal_threshold(scores[0], 2 * bad[0].double(), 0.15)


def test_equal_scores_are_kept_or_deferred_together():
    scores, bad = torch.tensor([1.0, 1.0, 1.0, 2.0]), torch.tensor([1.0, 0.0, 0.0, 0.0])
    assert conformal_threshold(scores, bad, 0.3) == 2  # 0.3 * 5 - 1 = 0.5 may be lost
    assert conformal_threshold(scores, bad, 0.5) == -math.inf


def test_a_streaming_threshold_keeps_its_budget_where_prompts_become_harder():
    easy, hard = uniform(3000), uniform(3000, seed=1) - 0.8
    scores = torch.cat([easy, hard])
    fixed = budget_threshold(easy, 0.3)
    assert (hard < fixed).double().mean() > 0.95  # the fixed one defers nearly all
    moving = StreamingThreshold(fixed, 0.3, 0.02)
    deferred = torch.cat([moving.defer(part) for part in scores.split(7)])
    bound = (1.8 + 0.02) / (0.02 * 3000)
    for half in deferred.double().split(3000):
        assert half.mean().item() == pytest.approx(0.3, abs=bound)
    assert deferred[-1000:].double().mean().item() == pytest.approx(0.3, abs=0.02)
    with pytest.raises(ValueError, match="starts at a number"):
        StreamingThreshold(math.inf, 0.3, 0.02)


def test_the_neediest_of_a_batch():
    scores = torch.tensor([3.0, 1.0, 2.0, 1.0])
    assert most_needy(scores, 2).tolist() == [False, True, False, True]
    assert most_needy(scores, 1).tolist() == [False, True, False, False]
    assert not most_needy(scores, 0).any()
    with pytest.raises(ValueError, match="5 of 4 drafts"):
        most_needy(scores, 5)


def test_scores_that_are_none():
    for scores, told in (
        (torch.zeros(2, 2), r"shape \[2, 2\]"),
        (torch.tensor([1, math.nan]), "1 of 2 scores are NaN"),
    ):
        with pytest.raises(ValueError, match=told):
            percentile_threshold(scores, 50)
    with pytest.raises(ValueError, match="3 scores with 2 losses"):
        conformal_threshold(torch.zeros(3), torch.zeros(2), 0.5)
