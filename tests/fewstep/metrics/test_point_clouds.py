import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from fewstep.metrics import intervals, point_clouds
from fewstep.metrics.point_clouds import cross_halves, energy_distance, mmd, sliced_wasserstein2, wasserstein2

torch.set_num_threads(1)
ALL = [wasserstein2, sliced_wasserstein2, energy_distance, mmd]


def cloud(n, d, seed=0, dtype=torch.float64):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def rotation(d, seed=0):
    return torch.linalg.qr(cloud(d, d, seed))[0]


# ---- against closed forms and other people's code -------------------------------------------------------------------


def test_wasserstein2_tries_every_assignment():
    x, y = cloud(6, 3, 0), cloud(6, 3, 1)
    best = min(
        sum(float((x[i] - y[j]).square().sum()) for i, j in enumerate(p)) for p in itertools.permutations(range(6))
    )
    assert wasserstein2(x, y).item() == pytest.approx(math.sqrt(best / 6), rel=1e-12)


def test_wasserstein2_of_an_affine_map_is_the_gaussian_formula():
    """T(x) = A x + b with A symmetric positive definite is optimal, between any cloud and its image (Brenier)."""
    x, b = cloud(300, 2), torch.tensor([3.0, -1.0], dtype=torch.float64)
    A = torch.tensor([[1.5, 0.3], [0.3, 0.8]], dtype=torch.float64)
    y = x @ A + b
    assert wasserstein2(x, y[torch.randperm(300)]).item() == pytest.approx(
        float((y - x).square().sum(1).mean().sqrt()), rel=1e-10
    )


def test_wasserstein2_with_different_counts_in_one_dimension():
    """Repeating each point k times leaves a distribution unchanged, so sorted values give the distance."""
    x, y = cloud(30, 1, 0), cloud(20, 1, 1)
    sorted_x, sorted_y = (v.flatten().sort().values.repeat_interleave(60 // len(v)) for v in (x, y))
    expected = (sorted_x - sorted_y).square().mean().sqrt().item()
    assert wasserstein2(x, y).item() == pytest.approx(expected, rel=1e-10)
    assert sliced_wasserstein2(x, y).item() == pytest.approx(expected, rel=1e-10)


def test_sliced_wasserstein2_of_a_shift():
    x, shift = cloud(200, 2), torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert sliced_wasserstein2(x, x + shift, num_projections=5000).item() == pytest.approx(5 / math.sqrt(2), rel=0.02)
    assert wasserstein2(x, x + shift).item() == pytest.approx(5, rel=1e-12)


def test_energy_distance_agrees_with_scipy_up_to_the_diagonal():
    """scipy integrates 2 (F - G)^2, the V-statistic; the U-statistic differs by the zero diagonals."""
    x, y = cloud(40, 1, 0), cloud(25, 1, 1) * 1.7 + 0.4
    within = [float(torch.pdist(v).sum() * 2 / (n * (n - 1)) / n) for v, n in ((x, 40), (y, 25))]
    v_statistic = stats.energy_distance(x.flatten().numpy(), y.flatten().numpy()) ** 2
    assert energy_distance(x, y).item() == pytest.approx(v_statistic - sum(within), rel=1e-9)


def test_mmd_by_brute_force():
    x, y = cloud(9, 3, 0).numpy(), (cloud(7, 3, 1) * 1.5 + 1).numpy()
    pooled = np.concatenate([x, y])
    h = torch.tensor([np.linalg.norm(a - b) for a, b in itertools.combinations(pooled, 2)]).median().item()

    def k(a, b):
        return np.mean([math.exp(-np.sum((a - b) ** 2) / (2 * (c * h) ** 2)) for c in (0.25, 0.5, 1, 2, 4)])

    within = sum(np.mean([k(a, b) for a, b in itertools.permutations(v, 2)]) for v in (x, y))
    across = np.mean([k(a, b) for a in x for b in y])
    assert mmd(torch.tensor(x), torch.tensor(y)).item() == pytest.approx(within - 2 * across, rel=1e-9)


def test_chunks_do_not_change_the_result(monkeypatch):
    x, y = cloud(50, 2, 0), cloud(41, 2, 1) + 0.5
    whole = [f(x, y).item() for f in (energy_distance, mmd)]
    monkeypatch.setattr(point_clouds, "CHUNK", 7)
    assert [f(x, y).item() for f in (energy_distance, mmd)] == pytest.approx(whole, rel=1e-12)


# ---- properties -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", ALL)
def test_symmetric_and_blind_to_order_and_shift(distance):
    x, y = cloud(40, 3, 0), cloud(60, 3, 1) * 1.3 + 0.5
    value = distance(x, y).item()
    assert distance(y, x).item() == pytest.approx(value, rel=1e-9)
    assert distance(x.flip(0), y[torch.randperm(60)]).item() == pytest.approx(value, rel=1e-9)
    assert distance(x + 7, y + 7).item() == pytest.approx(value, rel=1e-7)
    if distance is not sliced_wasserstein2:  # its directions are fixed
        R = rotation(3)
        assert distance(x @ R, y @ R).item() == pytest.approx(value, rel=1e-7)


@pytest.mark.parametrize(
    ("distance", "power"), [(wasserstein2, 1), (sliced_wasserstein2, 1), (energy_distance, 1), (mmd, 0)]
)
def test_units(distance, power):
    x, y = cloud(30, 2, 0), cloud(30, 2, 1) + 1
    assert distance(1000 * x, 1000 * y).item() == pytest.approx(1000**power * distance(x, y).item(), rel=1e-9)


@pytest.mark.parametrize("distance", [wasserstein2, sliced_wasserstein2])
def test_zero_only_for_equal_clouds(distance):
    x = cloud(30, 2)
    assert distance(x, x.flip(0)).item() == pytest.approx(0, abs=1e-7)
    assert distance(x, x * 1.01).item() > 1e-3


@pytest.mark.parametrize("distance", [energy_distance, mmd])
def test_unbiased_under_the_null_and_positive_under_a_difference(distance):
    null = torch.stack([distance(cloud(20, 2, 2 * s), cloud(20, 2, 2 * s + 1)) for s in range(400)])
    error = null.std() / 20
    assert abs(null.mean()) < 3 * error
    assert null.min() < 0  # a V-statistic would never be negative, and would be biased
    other = torch.stack([distance(cloud(20, 2, 2 * s), cloud(20, 2, 2 * s + 1) + 1) for s in range(50)])
    assert other.mean() > 20 * error


def test_mmd_of_coinciding_points():
    x = torch.ones(5, 2)
    assert mmd(x, x).item() == 0
    # Two of ten points elsewhere: the median distance is 0 and gives way to the mean. By hand: 0.2 - 0.2 k with k < 1.
    assert 0 < mmd(x, torch.cat([x[:3], x[:2] + 3])).item() < 0.2


@pytest.mark.parametrize("distance", ALL)
def test_cross_halves_floor_is_what_a_perfect_sampler_scores(distance):
    """Conditions that drift along the rows must not matter: sample and truth of one row share them."""
    drift = torch.linspace(0, 3, 24, dtype=torch.float64)[:, None]

    def measure(seed, shift=0.0):
        value, floor = cross_halves(
            distance, drift + cloud(24, 2, 2 * seed) + shift, drift + cloud(24, 2, 2 * seed + 1)
        )
        return value - floor

    gap = torch.stack([measure(s) for s in range(300)])
    assert abs(gap.mean()) < 3.5 * gap.std() / math.sqrt(300)
    assert measure(0, shift=3.0) > 5 * gap.std()


@pytest.mark.parametrize("distance", ALL)
@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(5), torch.zeros(5, 1), r"x must be \[n, D\]"),
        (torch.zeros(5, 2), torch.zeros(0, 2), r"y must be \[n, D\] with n >= "),
        (torch.zeros(5, 2), torch.zeros(5, 3), "x has 2 columns and y has 3"),
        (
            torch.zeros(5, 2),
            torch.tensor([[0.0, 0.0], [0.0, math.nan]]),
            r"y holds a value that is not finite \(row 1\)",
        ),
    ],
)
def test_bad_input_is_one_clear_line(distance, x, y, message):
    with pytest.raises(ValueError, match=message) as caught:
        distance(x, y)
    assert "\n" not in str(caught.value)


def test_half_precision_input_is_computed_in_float64():
    x, y = cloud(30, 2, 0).bfloat16(), cloud(30, 2, 1).bfloat16()
    assert [f(x, y).item() for f in ALL] == [f(x.double(), y.double()).item() for f in ALL]


# ---- intervals ------------------------------------------------------------------------------------------------------


def test_bootstrap_interval_matches_the_normal_theory_and_repeats():
    values = cloud(400, 1).flatten() * 3 + 5
    low, high = intervals.bootstrap_mean(values, num_draws=4000, seed=1)
    error = 1.96 * values.std().item() / 20
    assert low == pytest.approx(values.mean().item() - error, abs=0.1 * error)
    assert high == pytest.approx(values.mean().item() + error, abs=0.1 * error)
    assert (low, high) == intervals.bootstrap_mean(values, num_draws=4000, seed=1)


def test_bootstrap_interval_covers_the_truth_as_often_as_it_says():
    ends = [intervals.bootstrap_mean(cloud(60, 1, s).flatten(), num_draws=200) for s in range(300)]
    assert 0.90 <= np.mean([low <= 0 <= high for low, high in ends]) <= 0.98


def test_jackknife_error_of_a_mean_is_its_standard_error():
    values = cloud(4000, 1).flatten()
    errors = intervals.jackknife_error(torch.mean, values, num_blocks=200)
    assert errors == pytest.approx(1 / math.sqrt(4000), rel=0.2)
    with pytest.raises(ValueError, match="10 jackknife blocks need at least 40 rows, got 39"):
        intervals.jackknife_error(torch.mean, values[:39])


def test_influence_interval_of_a_mean_is_the_textbook_one():
    values = cloud(50, 1, 0).flatten().double()
    low, high = intervals.influence_interval(values.mean().item(), values - values.mean())
    assert (high - low) / 2 == pytest.approx(1.96 * values.std().item() / 50**0.5, rel=1e-4)
    wider = intervals.influence_interval(0.0, values, num=200, variance=values.var().item() / 200)
    assert wider[1] == pytest.approx(1.96 * values.std().item() / 10, rel=1e-4)
    with pytest.raises(ValueError, match=r"at least 2 samples, got shape \(1,\)"):
        intervals.influence_interval(0.0, values[:1])
