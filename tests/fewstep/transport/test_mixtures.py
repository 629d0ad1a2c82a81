"""Mixtures against torch.distributions, dense algebra and scikit-learn."""

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from fewstep.transport import mixtures

N, D, R = 4, 3, 2


@pytest.fixture(params=["diagonal", "low_rank", "full"])
def covariance(request):
    g = torch.Generator().manual_seed(0)
    var = 0.2 + torch.rand(N, D, generator=g, dtype=torch.float64)
    if request.param == "diagonal":
        return mixtures.DiagonalCovariance(var)
    if request.param == "low_rank":
        return mixtures.LowRankCovariance(torch.randn(N, D, R, generator=g, dtype=torch.float64), var)
    lower = torch.randn(N, D, D, generator=g, dtype=torch.float64).tril(-1)
    return mixtures.FullCovariance(lower + torch.diag_embed(var))


@pytest.fixture
def center():
    return torch.randn(N, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_log_prob_equals_torch_mixture(covariance, center):
    y = torch.randn(20, D, dtype=torch.float64)
    log_w = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64).log()
    expected = MixtureSameFamily(Categorical(logits=log_w), MultivariateNormal(center, covariance.dense())).log_prob(y)
    torch.testing.assert_close(mixtures.log_prob(y, log_w, center, covariance), expected, rtol=1e-12, atol=1e-12)


def test_quadratic_and_shift_equal_dense_algebra(covariance):
    slope = torch.randn(7, D, dtype=torch.float64)
    dense = covariance.dense()
    expected = torch.einsum("kd,nde,ke->kn", slope, dense, slope)
    torch.testing.assert_close(covariance.quadratic(slope), expected)
    index = torch.tensor([0, 3, 1, 2, 0, 1, 3])
    torch.testing.assert_close(covariance.shift(slope, index), (dense[index] @ slope[..., None]).squeeze(-1))


def test_scaled_noise_has_the_covariance(covariance):
    noise = torch.randn(200_000, covariance.noise_dim, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    draws = covariance.scale(noise, torch.full((len(noise),), 2))
    torch.testing.assert_close(torch.cov(draws.T), covariance.dense()[2], rtol=0.03, atol=0.03)


def test_float32_log_prob_survives_small_variances():
    # The expanded square y² - 2yc + c² would lose every digit here.
    center, y = torch.full((1, 1), 1000.0), torch.tensor([[1000.0625]])
    value = mixtures.DiagonalCovariance(torch.full((1, 1), 1e-3)).log_prob(y, center)
    expected = MultivariateNormal(center.double()[0], 1e-3 * torch.eye(1).double()).log_prob(y.double())
    torch.testing.assert_close(value[0].double(), expected, rtol=1e-4, atol=1e-4)


def test_categorical_inverts_the_cumulative_distribution():
    logits = torch.tensor([[0.2, 0.3, 0.5]]).log().expand(4, 3)
    index = mixtures.categorical(logits, torch.tensor([0.0, 0.19, 0.21, 0.999999]))
    assert index.tolist() == [0, 0, 1, 2]


def test_categorical_never_picks_an_impossible_component():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf]]).expand(3, 3)
    assert mixtures.categorical(logits, torch.tensor([0.0, 0.5, 1 - 1e-7])).tolist() == [1, 1, 1]


@pytest.mark.parametrize("full", [False, True])
def test_fit_finds_two_clusters(full):
    g = torch.Generator().manual_seed(0)
    y = torch.cat([torch.randn(3000, 2, generator=g) * 0.3 - 2, torch.randn(1000, 2, generator=g) * 0.1 + 2])
    result = mixtures.fit(y, 2, full=full, floor=1e-6)
    order = result.center[:, 0].argsort()
    torch.testing.assert_close(result.center[order], torch.tensor([[-2.0, -2.0], [2.0, 2.0]]), atol=0.03, rtol=0)
    torch.testing.assert_close(result.log_w.exp()[order], torch.tensor([0.75, 0.25]), atol=1e-3, rtol=0)
    var = result.covariance.diagonal(dim1=-2, dim2=-1) if full else result.covariance
    torch.testing.assert_close(var[order][:, 0], torch.tensor([0.09, 0.01]), rtol=0.1, atol=0)


def test_fit_refuses_fewer_points_than_components():
    with pytest.raises(ValueError, match="3 points cannot place 5 components"):
        mixtures.fit(torch.randn(3, 2), 5, full=False, floor=1e-3)
