import numpy as np
import pytest
import torch

from fewstep.kernel_distance import cmmd, kid

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
    monkeypatch.setattr("fewstep.kernel_distance.CHUNK", 4)
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
