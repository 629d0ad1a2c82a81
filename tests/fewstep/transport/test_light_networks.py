"""Light solvers side by side against the single one of the same parameters, quadrature and the start."""

import math

import pytest
import torch

from fewstep.transport import inverse_ot
from fewstep.transport.light_networks import LightNetworks
from fewstep.transport.light_transport import LightTransport
from fewstep.transport.mixtures import DiagonalCovariance


def networks(y_dim=2, hidden=(6,)):
    torch.manual_seed(0)
    model = LightNetworks(2, 3, y_dim, 5, 4, hidden).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model


def single(model, copy):
    """The light solver of one copy, without its gauge."""
    hidden = [weight.shape[-1] for weight in model.weights[:-2]]
    light = LightTransport(3, model.y_dim, 5, 4, hidden, gauge=None).double()
    linear = [layer for layer in (*light.slope_net, *light.weight_net) if isinstance(layer, torch.nn.Linear)]
    with torch.no_grad():
        for layer, weight, bias in zip(linear, model.weights, model.biases, strict=True):
            layer.weight.copy_(weight[copy].T)
            layer.bias.copy_(bias[copy, 0])
        for name in ("log_w", "center", "raw_scale"):
            getattr(light, name).copy_(getattr(model, name)[copy])
        light.floor.fill_(model.floor**2)
    return light


@pytest.mark.parametrize(("y_dim", "hidden"), [(1, ()), (2, (6,)), (3, (6, 5))])
def test_every_copy_is_the_single_solver(y_dim, hidden):
    model, x, y = networks(y_dim, hidden), torch.randn(7, 3).double(), torch.randn(7, y_dim).double()
    parts = model(x)
    for copy in range(2):
        light = single(model, copy)
        torch.testing.assert_close(parts.log_density(y)[copy], light.log_density(y, x), rtol=1e-9, atol=1e-9)
        each = torch.stack([light.log_density(y, row.expand(7, -1)) for row in x])
        torch.testing.assert_close(parts.log_marginal(y)[copy], each.logsumexp(0) - math.log(7), rtol=1e-9, atol=1e-9)


def test_its_components_are_the_same_density():
    model, x, y = networks(), torch.randn(7, 3).double(), torch.randn(7, 2).double()
    parts = model(x)
    torch.testing.assert_close(parts.components().log_density(y), parts.log_density(y), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(parts.rows(2, 5).log_density(y[2:5]), parts.log_density(y)[:, 2:5])


def test_own_conditions_for_every_copy():
    model, x, y = networks(), torch.randn(2, 7, 3).double(), torch.randn(7, 2).double()
    both = model(x).log_density(y)
    torch.testing.assert_close(both[1], model(x[1]).log_density(y)[1])
    assert not torch.allclose(both[0], model(x[1]).log_density(y)[0])


def test_starts_at_a_mixture_of_all_y_and_hardly_depends_on_x():
    torch.manual_seed(1)
    y = torch.randn(400, 2) * 0.3 + torch.tensor([[2.0, 0.0], [-2.0, 1.0]]).repeat(200, 1)
    model = LightNetworks(3, 4, 2, 6, 5, (8,))
    model.start(y)
    parts = model(torch.randn(50, 4))
    apart = (parts.log_density(y[:50]) - parts.log_marginal(y[:50])).abs().max()
    assert apart < 0.5
    nearest = torch.cdist(model.center[0], torch.tensor([[2.0, 0.0], [-2.0, 1.0]])).amin(1)
    assert (nearest < 1.2).all()
    assert model(torch.randn(1, 4)).log_w.exp().sum(1).allclose(torch.ones(3))


def test_few_y_place_many_components():
    model = LightNetworks(2, 1, 1, 50, 2, ())
    model.start(torch.arange(7.0)[:, None])
    assert model.center.isfinite().all()
    assert model.center.min() >= -0.01
    assert model.center.max() <= 6.01


def test_potential_parameters_are_those_of_f():
    model = networks()
    model.start(torch.randn(30, 2).double())
    parts = model(torch.zeros(1, 3).double())
    potential = inverse_ot.Potential(parts.log_w[0], parts.center[0], DiagonalCovariance(parts.var[0]))
    value = inverse_ot.potential_value(potential, torch.zeros(1, 2).double()).sum()
    touched = torch.autograd.grad(value, model.potential_parameters())
    assert all((gradient[0] != 0).any() for gradient in touched)
