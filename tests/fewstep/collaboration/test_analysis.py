"""Who wins, by closed forms, other libraries and simulations of what the shares and intervals promise."""

import math

import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import mannwhitneyu, norm, pearsonr

from fewstep.collaboration.analysis.predictors import auc, logistic_regression, spearman, trend
from fewstep.collaboration.analysis.wins import (
    outcomes,
    plan,
    share_of,
    sign_agreement,
    supports_a_claim,
    tie_band,
    win_shares,
)


def normal(*size, seed=0):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("count", "num"), [(0, 9), (3, 9), (640, 2000), (50, 50)])
def test_the_interval_of_wilson_is_where_the_score_test_is_at_its_limit(count, num):
    share, z = share_of(count, num), norm.ppf(0.975)
    for end in (share.low, share.high):
        assert abs(share.value - end) == pytest.approx(z * math.sqrt(end * (1 - end) / num), abs=1e-9)
    assert share.low <= share.value <= share.high
    for wrong in ((0, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="is no share"):
            share_of(*wrong)


def test_outcomes_by_hand_and_from_the_other_side():
    student, teacher = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]), torch.tensor([1.0, 2.5, 2.0, 4.2, 9.0])
    assert outcomes(student, teacher).tolist() == [0, -1, 1, -1, -1]
    assert outcomes(student, teacher, 0.5).tolist() == [0, -1, 1, 0, -1]  # a tie is what differs by less
    assert torch.equal(outcomes(teacher, student, 0.5), -outcomes(student, teacher, 0.5))
    shares = win_shares(outcomes(student, teacher, 0.5))
    assert (shares.student.cases, shares.teacher.cases, shares.tie.cases) == (1, 2, 2)
    assert shares.untied[3:] == (1, 3)
    assert win_shares(torch.zeros(4, dtype=torch.int64)).untied is None


@pytest.mark.parametrize("share", [0.0, 0.13, 0.5, 0.999])
def test_the_band_makes_as_many_ties_as_are_wanted(share):
    student, teacher = normal(2, 1000)
    found = win_shares(outcomes(student, teacher, tie_band(student, teacher, share)))
    assert found.tie.cases == round(share * 1000)
    equal = torch.ones(10)
    assert tie_band(equal, equal, share) == 0
    assert win_shares(outcomes(equal, equal)).tie.cases == 10


def test_a_second_draw_of_the_teacher_wins_as_often_as_it_loses():
    """The null; and the student's share differs from it only where the student does."""
    prompt, draws = normal(4000), normal(3, 4000, seed=1)
    teacher, again, student = prompt + draws[0], prompt + draws[1], prompt + draws[2] - 0.5
    band = tie_band(student, teacher, 0.13)
    null, found = win_shares(outcomes(again, teacher, band)), win_shares(outcomes(student, teacher, band))
    assert null.untied.low < 0.5 < null.untied.high
    assert found.untied.high < 0.5
    assert found.untied.value == pytest.approx(norm.cdf(-0.5 / math.sqrt(2)), abs=0.05)


def test_judges_that_see_nothing_agree_in_half_and_support_no_claim():
    scores = normal(4, 3000)
    blind = sign_agreement(outcomes(scores[0], scores[1], 0.3), outcomes(scores[2], scores[3], 0.3))
    assert blind.low < 0.5 < blind.high
    assert not supports_a_claim(blind)
    assert not supports_a_claim(None)
    same = outcomes(scores[0], scores[1], 0.3)
    assert sign_agreement(same, same).value == 1
    assert sign_agreement(same, same).num == (same != 0).sum()
    assert supports_a_claim(sign_agreement(same, same))
    assert sign_agreement(same, torch.zeros_like(same)) is None
    first, second = torch.tensor([1] * 7 + [-1] * 3), torch.ones(10, dtype=torch.int64)
    assert supports_a_claim(sign_agreement(first, second))  # in 7 of 10
    assert not supports_a_claim(sign_agreement(first[1:], second[1:]))  # in 6 of 9


def correlated(correlation, num, seed=0):
    first, second = normal(2, num, seed=seed)
    return first, correlation * first + math.sqrt(1 - correlation**2) * second


@pytest.mark.parametrize(("wins", "correlation"), [(0.375, 0.0), (0.375, 0.5), (0.375, 0.75), (0.3, 0.5)])
def test_the_plan_is_what_a_simulation_of_two_normals_finds(wins, correlation):
    """The best threshold of all, found by trying; and who compares both."""
    student, teacher = correlated(correlation, 1_000_000)
    delta = -norm.ppf(wins) * math.sqrt(2 * (1 - correlation))
    teacher = teacher + delta
    assert (student > teacher).double().mean().item() == pytest.approx(wins, abs=2e-3)
    order = student.argsort(descending=True)
    gains = (student - teacher)[order].cumsum(0) / len(student)  # of keeping the best so many drafts
    told = plan(wins, correlation)
    assert gains.max().item() == pytest.approx(told.gain, abs=3e-3)
    assert gains[int(told.keep * 1e6)].item() == pytest.approx(gains.max().item(), abs=1e-3)
    assert (student - teacher).clamp(min=0).mean().item() == pytest.approx(told.best_gain, abs=3e-3)


def test_the_plan_at_its_ends():
    table = {(0.375, 0): (0.33, 0.21), (0.375, 0.25): (0.30, 0.144), (0.375, 0.75): (0.18, 0.025)}
    for (wins, correlation), (keep, gain) in table.items():
        told = plan(wins, correlation)
        assert (told.keep, told.gain) == pytest.approx((keep, gain), abs=6e-3)
        assert told.best_gain > told.gain > 0
    for wrong in ((0.0, 0.5), (1.0, 0.5), (0.4, 1.0), (0.4, math.nan)):
        with pytest.raises(ValueError, match="must be"):
            plan(*wrong)


def test_fifths_are_of_equal_size_and_equal_values_stay_together():
    covariate = torch.randperm(100, generator=torch.Generator().manual_seed(0)).double()
    found = trend(covariate > 59.5, covariate)
    assert [(g.low, g.high, g.won.cases, g.won.num) for g in found.groups] == [
        (0, 19, 0, 20), (20, 39, 0, 20), (40, 59, 0, 20), (60, 79, 20, 20), (80, 99, 20, 20)
    ]  # fmt: skip
    assert found.z > 6
    lengths = torch.tensor([4.0] * 50 + [5.0] * 40 + [9.0] * 10)
    assert [(g.low, g.won.num) for g in trend(lengths > 4, lengths).groups] == [(4, 50), (5, 40), (9, 10)]
    with pytest.raises(ValueError, match="make no two groups, such as 4"):
        trend(lengths > 4, torch.full((100,), 4.0))


def test_the_trend_is_the_correlation_with_the_number_of_the_group():
    """Cochran and Armitage: z^2 = N r^2; and under no trend p is uniform."""
    chance, covariate = torch.rand(2, 500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    won = chance < 0.2 + 0.3 * covariate
    found = trend(won, covariate)
    number = sum((covariate > group.high).double() for group in found.groups)
    assert found.z == pytest.approx(math.sqrt(500) * pearsonr(won, number).statistic)
    assert found.p == pytest.approx(2 * norm.sf(abs(found.z)))
    assert trend(~won, covariate).z == pytest.approx(-found.z)
    draws = normal(400, 2, 300)
    small = sum(trend(a > 0.4, b).p < 0.1 for a, b in draws)
    assert 20 <= small <= 62  # of 400 at 0.1: four standard deviations
    assert trend(won | True, covariate)[1:] == (0, 1)


def test_rank_correlations_cover_that_of_the_population():
    truth = 6 / math.pi * math.asin(0.6 / 2)
    inside = 0
    for seed in range(300):
        found = spearman(*correlated(0.6, 60, seed))
        assert found.low < found.value < found.high
        inside += found.low <= truth <= found.high
    assert 268 <= inside <= 299  # of 300 at 95 %: within four standard deviations
    first, second = correlated(0.6, 50)
    assert spearman(first.exp(), -second).value == pytest.approx(-spearman(first, second).value)
    assert spearman(first, first) == pytest.approx((1, 1, 1))
    with pytest.raises(ValueError, match="give 4 that differ"):
        spearman(first, torch.ones(50))


def test_logistic_regression_of_one_binary_covariate_is_the_odds_ratio():
    counts = {(0, 0): 60, (0, 1): 15, (1, 0): 40, (1, 1): 35}  # (covariate, won)
    covariate, won = (torch.cat([torch.full((n,), float(key[i])) for key, n in counts.items()]) for i in (0, 1))
    effect = logistic_regression(won.bool(), covariate[:, None])[1]
    scale = covariate.std(correction=0).item()
    odds, error = math.log(60 * 35 / (15 * 40)), math.sqrt(sum(1 / n for n in counts.values()))
    assert effect.value == pytest.approx(scale * odds)
    assert effect.low == pytest.approx(scale * (odds - norm.ppf(0.975) * error))
    assert effect.high == pytest.approx(scale * (odds + norm.ppf(0.975) * error))


def test_logistic_regression_is_the_maximum_that_another_optimiser_finds():
    covariates = normal(400, 3) * torch.tensor([1.0, 50.0, 0.01]) + torch.tensor([0.0, 300.0, 0.1])
    scaled = (covariates - covariates.mean(0)) / covariates.std(0, correction=0)
    won = normal(400, seed=1) < scaled @ torch.tensor([1.0, -2.0, 0.0], dtype=torch.float64) - 0.5
    design, sign = torch.cat([torch.ones(400, 1), scaled], 1), 2 * won.double() - 1

    def loss(weights):
        return -torch.nn.functional.logsigmoid(sign * (design @ torch.as_tensor(weights))).sum()

    other = minimize(lambda weights: loss(weights).item(), [0.0] * 4, method="BFGS", options={"gtol": 1e-6})
    found = logistic_regression(won, covariates)
    assert [each.value for each in found] == pytest.approx(other.x.tolist(), abs=1e-4)
    widths = [(each.high - each.low) / 2 / norm.ppf(0.975) for each in found]
    curved = torch.autograd.functional.hessian(loss, torch.tensor(other.x))
    assert widths == pytest.approx(curved.inverse().diagonal().sqrt().tolist(), rel=1e-3)


def test_logistic_regression_says_where_there_is_no_estimate():
    covariate = normal(100)
    for won, columns, told in (
        (covariate > 0, covariate[:, None], "which the covariates tell apart"),
        (covariate > 9, covariate[:, None], "0 wins in 100 pairs"),
        (normal(100, seed=1) > 0, torch.stack([covariate, 2 * covariate], 1), "constant or depend on one another"),
        (normal(100, seed=1) > 0, torch.ones(100, 1), "constant or depend on one another"),
        (normal(100, seed=1), covariate[:, None], r"torch.float64 \[100\] of who won; give a bool"),
    ):
        with pytest.raises(ValueError, match=told):
            logistic_regression(won, columns)


def test_the_auc_is_the_statistic_of_mann_and_whitney_equal_scores_included():
    scores = normal(200).mul(3).round()
    won = normal(200, seed=1) < scores / 3
    found = auc(scores, won)
    statistic = mannwhitneyu(scores[won], scores[~won]).statistic
    assert found.value == pytest.approx(statistic / (won.sum() * (~won).sum()).item())
    assert auc(-scores, won).value == pytest.approx(1 - found.value)
    assert auc(won.double(), won) == (1, 1, 1)
    with pytest.raises(ValueError, match="1 pairs won and 199 lost have no AUC"):
        auc(scores, torch.arange(200) == 0)


def test_the_interval_of_the_auc_covers_that_of_the_population():
    """Scores of two normals one standard deviation apart: AUC = Phi(1 / sqrt 2)."""
    truth, inside = norm.cdf(1 / math.sqrt(2)), 0
    won = torch.arange(120) < 50
    for seed in range(400):
        found = auc(normal(120, seed=seed) + won, won)
        inside += found.low <= truth <= found.high
    assert 358 <= inside <= 396  # of 400 at 95 %, a little below it for so few


def test_scores_that_are_none():
    for pair, told in (
        ((torch.zeros(2, 2), torch.zeros(2, 2)), r"shapes \[2, 2\] and \[2, 2\]"),
        ((torch.zeros(2), torch.zeros(3)), r"shapes \[2\] and \[3\]"),
        ((torch.tensor([math.nan, 1]), torch.zeros(2)), "1 of 2 pairs"),
    ):
        with pytest.raises(ValueError, match=told):
            outcomes(*pair)
    with pytest.raises(ValueError, match=r"band=-1\.0"):
        outcomes(torch.zeros(2), torch.zeros(2), -1.0)
    with pytest.raises(ValueError, match="tie share=1"):
        tie_band(torch.zeros(2), torch.zeros(2), 1)
    with pytest.raises(ValueError, match="outcomes of 2 and of 3 pairs"):
        sign_agreement(torch.ones(2), torch.ones(3))
