import numpy as np
import pytest
import torch

from fewstep.metrics.intervals import influence_interval
from fewstep.metrics.kernel_distance import cmmd, cmmd_influence, kid, kid_influence

torch.set_num_threads(1)


def features(num, dims=12, seed=0, shift=0.0):
    return torch.randn(num, dims, generator=torch.Generator().manual_seed(seed)) + shift


def unbiased_mmd(x, y, kernel):
    """Gretton et al. 2012, Eq. 3, as it stands there."""
    x, y = x.double().numpy(), y.double().numpy()
    n, m = len(x), len(y)
    xx = sum(kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(kernel(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return xx + yy - 2 * sum(kernel(a, b) for a in x for b in y) / (n * m)


def test_kid_of_whole_sets_is_the_definition():
    x, y = features(15), features(15, seed=1, shift=0.5)
    expected = unbiased_mmd(x, y, lambda a, b: (a @ b / 12 + 1) ** 3)
    result = kid(x, y, subsets=3, subset_size=15)
    assert result.mean == pytest.approx(expected, rel=1e-9)
    assert result.std < 1e-12  # every subset is the whole set


def test_kid_equals_torch_fidelity():
    fidelity = pytest.importorskip("torch_fidelity.metric_kid")
    x, y = features(64), features(64, seed=1, shift=0.3)
    theirs = fidelity.kid_features_to_metric(x, y, kid_subsets=2, kid_subset_size=64, verbose=False)
    assert kid(x, y, 2, 64).mean == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-4)


def test_kid_is_unbiased_where_subsets_are_drawn():
    x, y = features(2000), features(2000, seed=1)
    result = kid(x, y, subsets=200, subset_size=50)
    assert abs(result.mean) < 4 * result.std / 200**0.5
    assert result.std > 0
    assert kid(x, y, 10, 50, seed=0) == kid(x, y, 10, 50, seed=0)
    assert kid(x, y, 10, 50, seed=0) != kid(x, y, 10, 50, seed=1)


def test_kid_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    kid(features(10), features(10), 2, 5)
    assert torch.equal(torch.rand(1), expected)


def test_cmmd_is_the_definition():
    """As published: Gaussian kernel with sigma = 10, diagonal counted, times 1000."""
    x, y = (torch.nn.functional.normalize(side, dim=1) for side in (features(9), features(7, seed=1, shift=1.0)))

    def kernel(a, b):
        return np.exp(-((a[:, None] - b[None]) ** 2).sum(-1) / 200).mean()

    a, b = x.double().numpy(), y.double().numpy()
    expected = 1000 * (kernel(a, a) + kernel(b, b) - 2 * kernel(a, b))
    assert cmmd(x, y) == pytest.approx(expected, rel=1e-9)
    assert cmmd(x, x) == pytest.approx(0, abs=1e-9)


def test_cmmd_in_chunks_is_cmmd(monkeypatch):
    x, y = features(30), features(20, seed=1)
    expected = cmmd(x, y)
    monkeypatch.setattr("fewstep.metrics.kernel_distance.CHUNK", 4)
    assert cmmd(x, y) == pytest.approx(expected, rel=1e-12)


def test_few_or_bad_samples_are_one_line():
    with pytest.raises(
        ValueError, match=r"at least subset_size=1000 images .* got 20 real and 30 gen.*subset_size to 20"
    ):
        kid(features(20), features(30))
    with pytest.raises(ValueError, match="2 generated features are not finite"):
        kid(features(4), torch.full((2, 12), torch.nan), 1, 2)
    with pytest.raises(ValueError, match="12 real features against 5 generated"):
        cmmd(features(4), features(4, dims=5))
    with pytest.raises(ValueError, match="as many real as generated ones, 3 or more of each; got 4 and 5"):
        kid_influence(features(4), features(5))


# ---- the influence of a sample ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("influence", "distance"), [(kid_influence, lambda x, y: kid(x, y, 1, len(x)).mean), (cmmd_influence, cmmd)]
)
def test_influence_is_what_leaving_a_sample_out_shows(influence, distance):
    x, y = features(60), features(60, seed=1, shift=0.3)
    without = [[torch.cat([side[:i], side[i + 1 :]]) for side in (x, y)] for i in range(60)]
    left_out = torch.tensor([distance(*sides) for sides in without], dtype=torch.float64)
    torch.testing.assert_close(influence(x, y), 59 * (left_out.mean() - left_out), rtol=1e-8, atol=1e-10)


def test_influence_in_chunks_is_the_same(monkeypatch):
    x, y = features(30), features(30, seed=1)
    expected = kid_influence(x, y), cmmd_influence(x, y)
    monkeypatch.setattr("fewstep.metrics.kernel_distance.CHUNK", 7)
    torch.testing.assert_close((kid_influence(x, y), cmmd_influence(x, y)), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("shift", "subset_size"), [(0.5, 150), (0.5, 50), (0.0, 150)])
def test_intervals_of_the_kid_hold_its_mean(shift, subset_size):
    """Random subsets of a third add variance of their own; equal distributions are the degenerate case."""
    values, ends = [], []
    for seed in range(100):
        x, y = features(150, 8, 2 * seed), features(150, 8, 2 * seed + 1, shift)
        found = kid(x, y, 8, subset_size, seed)
        values.append(found.mean)
        ends.append(influence_interval(found.mean, kid_influence(x, y), variance=found.std**2 / 8))
    mean, (low, high) = sum(values) / 100, torch.tensor(ends, dtype=torch.float64).T
    assert 0.88 <= ((low < mean) & (mean < high)).double().mean() <= 1
    assert (high - low).mean().item() / 3.92 < 2 * np.std(values)  # and not because they are wide
