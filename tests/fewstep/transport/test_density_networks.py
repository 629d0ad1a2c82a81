"""Density networks against torch.distributions, quadrature and the Gaussian at which they start."""

import math

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from fewstep.transport.density_networks import Components, DensityNetworks
from fewstep.transport.gaussian import LinearGaussian


def networks(num_components=3, hidden=(8,), y_dim=2):
    torch.manual_seed(0)
    model = DensityNetworks(2, 3, y_dim, num_components, hidden).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def as_distribution(parts, copy):
    precision = parts.whiten[copy].mT @ parts.whiten[copy]
    gaussians = MultivariateNormal(parts.mean[copy], precision_matrix=precision)
    return MixtureSameFamily(Categorical(logits=parts.log_w[copy]), gaussians)


@pytest.mark.parametrize("y_dim", [1, 2, 3])
def test_density_is_that_of_torchs_mixture(y_dim):
    x, y = torch.randn(5, 3).double(), torch.randn(5, y_dim).double()
    parts = networks(y_dim=y_dim)(x)
    for copy in range(2):
        expected = as_distribution(parts, copy).log_prob(y)
        torch.testing.assert_close(parts.log_density(y)[copy], expected, rtol=1e-9, atol=1e-9)


def test_marginal_is_the_mean_density_over_conditions():
    x, y = torch.randn(6, 3).double(), torch.randn(4, 2).double()
    parts = networks()(x)
    for copy in range(2):
        each = as_distribution(parts, copy).log_prob(y[:, None])  # [R, B]
        torch.testing.assert_close(parts.log_marginal(y)[copy], each.logsumexp(1) - math.log(6), rtol=1e-8, atol=1e-8)


def test_integrates_to_one():
    grid = torch.linspace(-15, 15, 4001).double()[:, None]
    model = networks(y_dim=1)
    for row in torch.randn(3, 3).double():
        density = model(row.expand(len(grid), -1)).log_density(grid).exp()
        torch.testing.assert_close(torch.trapezoid(density, grid[:, 0]), torch.ones(2).double(), rtol=1e-5, atol=1e-5)


def gaussian():
    factor = torch.tensor([[0.6, 0.0], [0.3, 0.4]]).double()
    weight = torch.tensor([[1.0, -0.5, 0.2], [0.3, 0.0, 0.8]]).double()
    return LinearGaussian(weight, torch.tensor([0.5, -1.0]).double(), factor @ factor.T)


def test_one_component_starts_as_the_gaussian():
    model, around = DensityNetworks(2, 3, 2, 1, ()).double(), gaussian()
    x, y = torch.randn(7, 3).double(), torch.randn(7, 2).double()
    model.start(1, around, y[:0])
    torch.testing.assert_close(model(x).log_density(y)[1], around.log_density(y, x), rtol=1e-6, atol=1e-6)


def test_several_components_start_with_its_mean_and_about_its_covariance():
    generator = torch.Generator().manual_seed(1)
    model, around = DensityNetworks(1, 3, 2, 400, (8,)).double(), gaussian()
    noise = torch.randn(5000, 2, generator=generator).double() @ torch.linalg.cholesky(around.covariance).T
    model.start(0, around, noise)
    x = torch.randn(2, 3).double()
    parts = model(x)
    mean = parts.mean[0].mean(1)
    torch.testing.assert_close(mean, x @ around.weight.T + around.bias, rtol=1e-6, atol=1e-6)
    inner = torch.linalg.inv(parts.whiten[0, 0].mT @ parts.whiten[0, 0]).mean(0)
    torch.testing.assert_close(inner + parts.mean[0, 0].T.cov(correction=0), around.covariance, rtol=0.15, atol=0.02)


def test_copies_do_not_touch_one_another():
    model = networks()
    x, y = torch.randn(4, 3).double(), torch.randn(4, 2).double()
    model(x).log_density(y)[0].sum().backward()
    assert all(parameter.grad[1].abs().max() == 0 for parameter in model.parameters())
    assert all(parameter.grad[0].abs().max() > 0 for parameter in model.parameters())


def test_rows_are_rows():
    parts = networks()(torch.randn(5, 3).double())
    cut = parts.rows(1, 3)
    assert isinstance(cut, Components)
    assert all(torch.equal(a, b[:, 1:3]) for a, b in zip(cut, parts, strict=True))
