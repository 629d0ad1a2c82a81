import math

import numpy as np
import pytest
import torch

from fewstep.metrics.frechet import FeatureMoments, Gaussian, frechet_distance, frechet_influence, read_gaussian
from fewstep.metrics.intervals import influence_interval

torch.set_num_threads(1)


def features(num, dims=16, seed=0, shift=0.0):
    """Correlated, far from zero and of very different scales, as an Inception's are."""
    rng = torch.Generator().manual_seed(seed)
    mix = torch.randn(dims, dims, generator=torch.Generator().manual_seed(99)) / dims**0.5
    scales = torch.logspace(0, -3, dims)
    return (torch.randn(num, dims, generator=rng) @ mix * scales + 0.5 + shift).float()


def gaussian(rows, batch=7):
    moments = FeatureMoments(rows.shape[1])
    for part in rows.split(batch):
        moments.add(part)
    return moments.gaussian()


def test_one_dimension_is_the_textbook_formula():
    a = Gaussian(torch.tensor([1.0]).double(), torch.tensor([[4.0]]).double())
    b = Gaussian(torch.tensor([3.0]).double(), torch.tensor([[9.0]]).double())
    assert frechet_distance(a, b) == pytest.approx((1 - 3) ** 2 + (2 - 3) ** 2)


def test_equals_scipy_torchmetrics_and_torch_fidelity():
    fidelity = pytest.importorskip("torch_fidelity.metric_fid")
    from torchmetrics.image.fid import _compute_fid

    x, y = features(300, seed=0), features(280, seed=1, shift=0.05)
    ours = frechet_distance(gaussian(x), gaussian(y))
    moments = [(side.double().mean(0), side.double().T.cov()) for side in (x, y)]
    metrics = _compute_fid(*moments[0], *moments[1]).item()
    statistics = [fidelity.fid_features_to_statistics(side) for side in (x, y)]
    theirs = fidelity.fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert ours == pytest.approx(theirs, rel=1e-6)
    assert ours == pytest.approx(metrics, rel=1e-6)


def test_order_batches_and_processes_do_not_show():
    x, y = features(500, seed=0), features(500, seed=1)
    expected = frechet_distance(gaussian(x), gaussian(y))
    shuffled = y[torch.randperm(500, generator=torch.Generator().manual_seed(0))]
    assert frechet_distance(gaussian(x, 500), gaussian(shuffled, 1)) == pytest.approx(expected, rel=1e-7)
    halves = [FeatureMoments(16), FeatureMoments(16)]
    halves[0].add(y[:123])
    halves[1].add(y[123:])
    whole = FeatureMoments(16)
    whole.num, whole.sum, whole.outer_sum = (sum(pair) for pair in zip(*(h.sums() for h in halves), strict=True))
    assert frechet_distance(gaussian(x), whole.gaussian()) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("num", [5, 40, 400])
def test_a_set_is_at_no_distance_from_itself(num):
    """But for the roots of the smallest eigenvalues, which keep half the digits of a float64."""
    own = gaussian(features(num, dims=64) * 10)
    assert abs(frechet_distance(own, gaussian(features(num, dims=64) * 10, 64))) < 2**-26 * own.covariance.trace()


def test_singular_covariances_need_no_offset():
    """With n < D the trace is a nuclear norm of the centred features: no square root of a singular matrix."""
    x, y = features(20, dims=128, seed=0), features(30, dims=128, seed=1, shift=0.1)
    cx, cy = (side.double() - side.double().mean(0) for side in (x, y))
    nuclear = torch.linalg.matrix_norm(cx @ cy.T, "nuc") / math.sqrt(19 * 29)
    spread = cx.square().sum() / 19 + cy.square().sum() / 29
    expected = (x.double().mean(0) - y.double().mean(0)).square().sum() + spread - 2 * nuclear
    for pair in ((x, y), (y, x)):
        assert frechet_distance(*map(gaussian, pair)) == pytest.approx(expected.item(), rel=1e-9)


def test_constant_features_have_the_distance_of_their_means():
    x, y = torch.zeros(4, 3), torch.ones(5, 3)
    assert frechet_distance(gaussian(x), gaussian(y)) == pytest.approx(3.0)


def test_few_or_bad_samples_are_one_line():
    with pytest.raises(ValueError, match="needs at least 2 images on either side, got 1"):
        gaussian(features(1))
    with pytest.raises(ValueError, match="generated features have a mean or covariance that is not finite"):
        frechet_distance(gaussian(features(9)), gaussian(features(9) * math.nan))
    with pytest.raises(ValueError, match="16 real features against 8 generated ones"):
        frechet_distance(gaussian(features(9)), gaussian(features(9, dims=8)))
    with pytest.raises(ValueError, match=r"features must be \[B, 16\], got \[3, 4\]"):
        FeatureMoments(16).add(torch.zeros(3, 4))


def test_reference_statistics_are_read_without_pickle(tmp_path):
    file, side = tmp_path / "stats.npz", gaussian(features(50))
    np.savez(file, mu=side.mean.numpy(), sigma=side.covariance.numpy())
    assert frechet_distance(read_gaussian(file, 16), side) == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="holds statistics of 16 features, the network has 2048"):
        read_gaussian(file, 2048)
    np.savez(file, mu=np.array([print], dtype=object), sigma=side.covariance.numpy())
    with pytest.raises(ValueError, match=r"cannot read mu and sigma from .*allow_pickle"):
        read_gaussian(file, 16)


# ---- the influence of a sample ---------------------------------------------------------------------------------------


def mixed(rows, row, share):
    """Moments of (1 - share) times the empirical distribution of `rows` and `share` times one of them."""
    weights = torch.full((len(rows),), (1 - share) / len(rows), dtype=torch.float64)
    weights[row] += share
    mean = weights @ rows.double()
    centred = rows.double() - mean
    return Gaussian(mean, (centred.T * weights) @ centred)


@pytest.mark.parametrize("num", [40, 200])
def test_influence_is_the_derivative_of_the_distance(num):
    """By differences, of the same mass moved in both sets."""
    x, y = features(num, dims=6, seed=0) * 9, features(num, dims=6, seed=1, shift=0.2) * 9
    found = frechet_influence(mixed(x, 0, 0), mixed(y, 0, 0), y, x)
    one_side = frechet_influence(mixed(x, 0, 0), mixed(y, 0, 0), y)
    assert found.mean().abs() < 1e-9
    for row in (0, 7, num - 1):
        higher, lower = (frechet_distance(mixed(x, row, e), mixed(y, row, e)) for e in (1e-5, -1e-5))
        assert found[row].item() == pytest.approx((higher - lower) / 2e-5, rel=1e-5)
        higher, lower = (frechet_distance(mixed(x, 0, 0), mixed(y, row, e)) for e in (1e-5, -1e-5))
        assert one_side[row].item() == pytest.approx((higher - lower) / 2e-5, rel=1e-5)


def test_influence_of_constant_features_is_none():
    assert torch.equal(
        frechet_influence(*map(gaussian, (torch.zeros(4, 3), torch.ones(5, 3))), torch.ones(5, 3)), torch.zeros(5)
    )


@pytest.mark.parametrize(("num", "dims"), [(200, 4), (160, 16), (24, 32)])
def test_intervals_hold_the_mean_over_other_samples(num, dims):
    """With n < D, too; about 95 of 100 times. Resampling hardly ever does: benchmarks/metrics/interval_coverage.py."""
    values, ends = [], []
    for seed in range(100):
        x, y = features(num, dims, 2 * seed), features(num, dims, 2 * seed + 1, shift=0.05)
        values.append(frechet_distance(gaussian(x), gaussian(y)))
        ends.append(influence_interval(values[-1], frechet_influence(gaussian(x), gaussian(y), y, x)))
    mean, (low, high) = sum(values) / 100, torch.tensor(ends, dtype=torch.float64).T
    assert 0.88 <= ((low < mean) & (mean < high)).double().mean() <= 1
    assert (high - low).mean().item() / 3.92 < 2 * np.std(values)  # and not because they are wide
