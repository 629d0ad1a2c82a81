"""The light network: initialisation, epsilon, gauge, objectives, queue and refusals."""

import math

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from fewstep.rng import PerSampleRng
from fewstep.transport import inverse_ot
from fewstep.transport.light_transport import LightTransport


@pytest.fixture
def batch():
    g = torch.Generator().manual_seed(torch.initial_seed())
    x, x_unpaired = torch.randn(16, 3, generator=g), torch.randn(40, 3, generator=g)
    y = torch.stack([x.sum(1), x[:, 0]], 1) + 0.1 * torch.randn(16, 2, generator=g)
    y_unpaired = torch.stack([x_unpaired.sum(1), x_unpaired[:, 0]], 1) + 0.1 * torch.randn(40, 2, generator=g)
    return {"x": x, "y": y, "x_unpaired": x_unpaired, "y_unpaired": y_unpaired}


def light(batch, **options):
    torch.manual_seed(torch.initial_seed())  # the same weights in every call
    model = LightTransport(3, 2, **{"num_potential": 5, "num_cost": 4, "slope_hidden": (8,), **options})
    model.initialise(batch["x_unpaired"], torch.cat([batch["y_unpaired"], batch["y"]]))
    return model


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_before_training_the_conditional_is_the_fitted_density_of_y(batch, covariance):
    """Spec 2.6: with slopes at zero the loss is the NLL of the mixture on unpaired y."""
    model = light(batch, covariance=covariance, initial_variance=None, objective="inverse_ot")
    torch.nn.init.zeros_(model.slope_net[-1].weight)
    from sklearn.mixture import GaussianMixture

    y = torch.cat([batch["y_unpaired"], batch["y"]])
    kind = {"diagonal": "diag"}.get(covariance, covariance)
    floor = float(model.floor.min())
    reference = GaussianMixture(
        5, covariance_type=kind, init_params="k-means++", reg_covar=floor, random_state=0, max_iter=200
    )
    reference.fit(y.double().numpy())
    loss = sum(model.losses(batch).values()).item()
    assert loss == pytest.approx(-reference.score(batch["y_unpaired"].double().numpy()), abs=0.05)


@pytest.mark.parametrize("epsilon", [0.2, 1.0, 4.0])
def test_epsilon_enters_as_in_the_paper(batch, epsilon):
    """c = -eps log Σ v exp(<a, y>/eps), f = eps log Σ w N(y | b, eps B), π ∝ exp((f - c)/eps), by quadrature."""
    model = light(batch, epsilon=epsilon, gauge=None).double()
    torch.nn.init.normal_(model.slope_net[-1].weight, std=0.5 * epsilon)
    x = batch["x"][:1].double()
    a = model.slope_net(x).view(4, 2)
    v = model.weight_net(x).softmax(-1)[0]
    b_shape = torch.nn.functional.softplus(model.raw_scale) + model.floor / epsilon
    gaussians = Independent(Normal(model.center, (epsilon * b_shape).sqrt()), 1)
    mixture = MixtureSameFamily(Categorical(logits=model.log_w), gaussians)

    def log_unnormalised(y):
        f = epsilon * mixture.log_prob(y)
        c = -epsilon * torch.logsumexp(v.log() + y @ a.T / epsilon, dim=-1)
        return (f - c) / epsilon

    axis = torch.linspace(-14, 14, 1401, dtype=torch.float64)
    grid = log_unnormalised(torch.cartesian_prod(axis, axis)).exp().view(1401, 1401)
    log_z = torch.trapezoid(torch.trapezoid(grid, axis), axis).log()
    y = torch.randn(20, 2, dtype=torch.float64)
    expected = log_unnormalised(y) - log_z
    actual = model.log_density(y, x.expand(20, -1))
    torch.testing.assert_close(actual, expected, rtol=1e-7, atol=1e-7)


def test_centring_keeps_the_mean_slope_at_zero_and_the_free_gauge_does_not(batch):
    for gauge, fixed in (("centred", True), (None, False)):
        model = light(batch, gauge=gauge)
        torch.nn.init.constant_(model.slope_net[-1].bias, 3.0)
        drift = inverse_ot.mean_slope(model.cost(model.reference_x)).norm().item()
        assert (drift < 1e-5) == fixed


def test_covariance_floor_bounds_every_variance_in_units_of_the_data(batch):
    model = light(batch, covariance_floor=0.01)
    torch.nn.init.constant_(model.raw_scale, -50.0)
    expected = 0.01 * torch.cat([batch["y_unpaired"], batch["y"]]).var(0, correction=0)
    torch.testing.assert_close(model.potential().covariance.var, expected.expand(5, -1))


@pytest.mark.learns
@pytest.mark.parametrize("covariance", ["diagonal", "low_rank_1", "full"])
@pytest.mark.parametrize("objective", ["marginal", "blend", "inverse_ot"])
def test_training_lowers_the_loss(batch, objective, covariance, below):
    model = light(batch, objective=objective, covariance=covariance)
    optimizer, losses = torch.optim.Adam(model.parameters(), 1e-2), []
    for _ in range(61):
        losses.append(loss := sum(model.losses(batch).values()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    below("1 nat", 1.0, (losses[0] - losses[-1]).item())


def test_queue_holds_the_latest_conditions_and_carries_no_cost_gradient(batch):
    model = light(batch, queue_size=50)
    first = sum(model.losses(batch).values())
    assert len(model.queue) == 40
    later = {**batch, "x_unpaired": batch["x_unpaired"] + 1}
    terms = model.losses(later)
    assert len(model.queue) == 50
    torch.testing.assert_close(model.queue[:40], later["x_unpaired"])
    torch.testing.assert_close(model.queue[40:], batch["x_unpaired"][:10])
    potential, old = model.potential(), model.cost(batch["x_unpaired"])
    new = model.cost(later["x_unpaired"])
    joined = inverse_ot.Cost(torch.cat([new.log_v, old.log_v]), torch.cat([new.slope, old.slope]))
    product = inverse_ot.log_density_matrix(batch["y_unpaired"], potential, joined)
    expected = -(torch.logsumexp(product, 0) - math.log(80)).mean()
    torch.testing.assert_close(terms["marginal"], expected)
    assert torch.isfinite(first)


def test_samples_follow_the_density_and_do_not_depend_on_the_batch(batch):
    model = light(batch)
    torch.nn.init.normal_(model.slope_net[-1].weight, std=1.0)
    x = batch["x"][:1].expand(20_000, -1)
    torch.manual_seed(0)
    y = model.sample(x)
    # E_pi[log pi] by the sampler and by importance weighting the broad mixture agree.
    potential = model.potential()
    index = torch.distributions.Categorical(logits=potential.log_w).sample((200_000,))
    wide = potential.center[index] + 3 * torch.randn(200_000, 2) * potential.covariance.var[index].sqrt()
    scale = 3 * potential.covariance.var.sqrt()
    proposal = MixtureSameFamily(Categorical(logits=potential.log_w), Independent(Normal(potential.center, scale), 1))
    log_p = model.log_density(wide, batch["x"][:1].expand(len(wide), -1))
    weight = (log_p - proposal.log_prob(wide)).exp()
    assert weight.mean().item() == pytest.approx(1, abs=0.05)
    torch.testing.assert_close(y.mean(0), (weight[:, None] * wide).sum(0) / weight.sum(), atol=0.1, rtol=0.05)

    keys = [f"row-{i}" for i in range(16)]
    whole = model.sample(batch["x"], PerSampleRng(0, keys))
    part = model.sample(batch["x"][5:9], PerSampleRng(0, keys[5:9]))
    torch.testing.assert_close(whole[5:9], part)


def test_parameter_groups_are_disjoint_and_complete(batch):
    model = light(batch, covariance="full")
    ids = [id(p) for group in model.parameter_groups().values() for p in group]
    assert sorted(ids) == sorted(id(p) for p in model.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": 0.0}, r"epsilon=0\.0"),
        ({"epsilon": -1.0}, r"epsilon=-1\.0"),
        ({"objective": "nll"}, "choose one of marginal, blend, inverse_ot"),
        ({"gauge": "free"}, "choose 'centred' or null"),
        ({"covariance": "low_rank"}, "low_rank_R"),
        ({"covariance": "low_rank_0"}, "low_rank_R"),
        ({"blend": 1.5}, r"blend=1\.5"),
        ({"covariance_floor": 0.0}, "covariance_floor"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        LightTransport(3, 2, **options)


def test_fewer_targets_than_components_is_refused_with_the_remedy(batch):
    with pytest.raises(ValueError, match="56 points cannot place 57 components"):
        light(batch, num_potential=57)


def test_data_of_another_dimension_is_refused(batch):
    with pytest.raises(ValueError, match="y_dim=2"):
        LightTransport(3, 2, num_potential=2).initialise(batch["x_unpaired"], torch.randn(30, 4))
