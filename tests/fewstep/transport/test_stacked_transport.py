"""The stacked model: its density against quadrature and its members, samples, selection, weights, odd tables, files."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from fewstep.rng import PerSampleRng
from fewstep.transport import saved_models
from fewstep.transport.conditional_model import ConditionalModel
from fewstep.transport.cross_fitting import held_out, seen_by, stacking_weights
from fewstep.transport.stacked_transport import StackedTransport
from fewstep.transport.units import Units

SMALL = {"num_components": 3, "hidden": (8,), "folds": 4, "num_potential": 6, "num_cost": 2, "slope_hidden": (8,)}


def draw(num, seed=0, y_dim=2):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num, 3, generator=generator) * torch.tensor([1.0, 5.0, 0.1]) + 2
    mean = torch.stack([x[:, 0], x[:, 1] / 5 - x[:, 0]], 1)[:, :y_dim]
    return x, mean + 0.5 * torch.randn(num, y_dim, generator=generator)


def placed(num=24, y_dim=2, scale=1.0, **options):
    torch.manual_seed(0)
    x, y = draw(num, y_dim=y_dim)
    x_unpaired, y_unpaired = draw(200, 1, y_dim)[0], draw(200, 2, y_dim)[1]
    model = StackedTransport(3, y_dim, **{**SMALL, **options})
    model.initialise(torch.cat([x_unpaired, x]), torch.cat([y_unpaired, y]) * scale)
    model.start(x, y * scale, x_unpaired, y_unpaired * scale)
    return model, {"x_unpaired": x_unpaired, "y_unpaired": y_unpaired * scale}


def train(model, batch, steps=30, lr=1e-2):
    optimizer = torch.optim.Adam(model.networks.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.stack(list(model.losses(batch).values())).sum().backward()
        optimizer.step()
    model.keep_best()


@pytest.fixture(scope="module")
def trained():
    model, batch = placed()
    train(model, batch)
    return model


def test_density_integrates_to_one():
    model, batch = placed(y_dim=1)
    train(model, batch, 10)
    grid = torch.linspace(-20, 20, 8001)[:, None]
    for row in draw(3, 5)[0]:
        density = model.log_density(grid, row.expand(len(grid), -1)).exp()
        assert torch.trapezoid(density, grid[:, 0]).item() == pytest.approx(1, abs=1e-4)


def test_density_is_the_weighted_sum_of_its_members(trained):
    x, y = draw(10, 7)
    inside = (y - trained.y_shift) / trained.y_scale
    members = trained._members((x - trained.x_shift) / trained.x_scale)
    each = torch.stack([member.log_density(inside) for member in members], 1) - trained.y_scale.log().sum()
    torch.testing.assert_close(trained.log_density(y, x), (each + trained.log_weight).logsumexp(1))
    assert trained.mixture(x).log_w.shape[1] == trained.num_gaussians
    torch.testing.assert_close(trained.mixture(x).log_w.logsumexp(1), torch.zeros(10), atol=1e-5, rtol=0)


def test_samples_have_the_moments_and_quantiles_of_the_mixture(trained):
    x = draw(1, 9)[0]
    count = 20000
    torch.manual_seed(1)
    sample = trained.sample(x.expand(count, -1)).double()
    model = ConditionalModel(trained, Units(3, 2))
    mean, levels = model.mean(x)[0], [0.1, 0.5, 0.9]
    assert ((sample.mean(0) - mean).abs() < 4 * sample.std(0) / math.sqrt(count)).all()
    for level, value in zip(levels, model.quantiles(x, levels)[0], strict=True):
        error = math.sqrt(level * (1 - level) / count)
        assert ((sample < value).double().mean(0) - level).abs().max() < 4 * error


def test_a_draw_depends_on_its_key_alone(trained):
    x = draw(4, 3)[0]
    whole = trained.sample(x, PerSampleRng(0, [1, 2, 3, 4]))
    torch.testing.assert_close(whole[2:3], trained.sample(x[2:3], PerSampleRng(0, [3])))


def test_no_copy_is_judged_by_a_pair_that_it_is_trained_on():
    """Moving the pairs of one fold far away must leave the gradients of the copies that leave it out as they were."""
    model, batch = placed()
    before = gradients(model, batch)
    model.pairs_y[model.fold == 2] += 100
    changed = [(a - b).abs().amax((1, 2)) > 0 for a, b in zip(before, gradients(model, batch), strict=True)]
    touched = torch.stack(changed).any(0)
    assert touched.tolist() == [True, False, False, True]  # copies 1 and 2 never see fold 2
    unseen = ~seen_by(model.fold, model.folds)
    assert (unseen.sum(0) == 2).all()
    assert all(unseen[copy][model.fold == 2].all() == (copy in (1, 2)) for copy in range(4))


def gradients(model, batch):
    torch.manual_seed(3)
    terms = model.losses(batch)
    likelihood = sum(value for name, value in terms.items() if name.endswith("pair"))
    return torch.autograd.grad(likelihood, [network.weights[-1] for network in model.networks.values()])


def test_a_start_that_training_worsens_is_kept():
    model, _ = placed()
    x, y = draw(50, 11)
    before, nll, best = model.log_density(y, x), model.held_out_nll.clone(), model.best.clone()
    with torch.no_grad():
        for name, network in model.networks.items():
            (network.center if name == "light" else network.mean_weight).add_(10)
    model.keep_best()
    torch.testing.assert_close(model.log_density(y, x), before)
    torch.testing.assert_close(model.held_out_nll, nll)
    torch.testing.assert_close(model.best, best)


def test_weights_maximise_the_left_out_likelihood():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(40, 3, generator=generator).double() + torch.tensor([0.0, 0.5, -1.0])
    weights = stacking_weights(scores, 2000).double().numpy()

    def loss(v):
        log_w = v - np.logaddexp.reduce(v)
        return -np.logaddexp.reduce(scores.numpy() + log_w, axis=1).sum() - log_w.sum()

    found = minimize(loss, np.zeros(3), options={"gtol": 1e-8}).x
    np.testing.assert_allclose(weights, np.exp(found - np.logaddexp.reduce(found)), atol=1e-4)


def test_a_pair_is_judged_by_the_mean_of_two_copies():
    log_density, fold = torch.randn(5, 20).double(), torch.arange(20) % 5
    expected = [
        torch.log((log_density[f, i].exp() + log_density[(f - 1) % 5, i].exp()) / 2)
        for i, f in enumerate(fold.tolist())
    ]
    torch.testing.assert_close(held_out(log_density, fold), torch.stack(expected))


def test_weights_prefer_the_member_that_predicts():
    scores = torch.zeros(100, 2)
    scores[:, 1] -= 3
    assert stacking_weights(scores)[0] > 0.95


def test_units_of_y_change_the_density_by_their_volume_alone():
    x, y = draw(20, 4)
    one, thousand = placed()[0], placed(scale=1000.0)[0]
    expected = one.log_density(y, x) - 2 * math.log(1000)
    torch.testing.assert_close(thousand.log_density(y * 1000, x), expected, rtol=1e-3, atol=1e-3)
    assert thousand.held_out_nll.item() == pytest.approx(one.held_out_nll.item() + 2 * math.log(1000), abs=1e-3)


def test_heavy_tails_leave_training_finite():
    torch.manual_seed(0)
    x = torch.randn(40, 3)
    y = torch.distributions.StudentT(1.0).sample((40, 2)) + x[:, :2]
    model = StackedTransport(3, 2, **SMALL)
    y_unpaired = torch.distributions.StudentT(1.0).sample((300, 2))
    model.initialise(x, torch.cat([y, y_unpaired]))
    model.start(x, y, x, y_unpaired)
    train(model, {"x_unpaired": x, "y_unpaired": y_unpaired}, 50)
    assert model.log_density(y, x).isfinite().all()
    assert model.held_out_nll.isfinite()


def test_near_constant_y_is_learnt_in_its_own_scale():
    x, y = draw(30)
    small = 5 + 1e-4 * y
    model = StackedTransport(3, 2, **SMALL)
    model.initialise(x, small)
    model.start(x, small, x, small)
    assert model.held_out_nll.item() < 2 * math.log(1e-4) + 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x, y * torch.tensor([1.0, 0.0]) + 7), "column 2 of y is 7 throughout; leave it out"),
        (lambda x, y: (x * torch.inf, y), "x holds a value that is not finite"),
        (lambda x, y: (x[:, :2], y), "x of 2 dimensions"),
    ],
)
def test_a_table_that_cannot_be_learnt_is_one_line(change, message):
    with pytest.raises(ValueError, match=message) as raised:
        StackedTransport(3, 2, **SMALL).initialise(*change(*draw(20)))
    assert "\n" not in str(raised.value)


def test_one_pair_is_said_before_training():
    x, y = draw(20)
    model = StackedTransport(3, 2, **SMALL)
    model.initialise(x, y)
    with pytest.raises(ValueError, match="1 pairs cannot be judged without one another; give at least 4"):
        model.start(x[:1], y[:1], x, y)


@pytest.mark.parametrize("options", [{"noise": ()}, {"noise": (-1.0,)}, {"folds": 2}, {"floor": 0.0}])
def test_options_are_checked(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        StackedTransport(3, 2, **options)


def test_an_export_answers_as_the_model_and_holds_no_pair(trained, tmp_path):
    units = Units(3, 2, y_mean=[1.0, 2.0], y_std=[3.0, 4.0])
    saved_models.save(ConditionalModel(trained, units), tmp_path)
    loaded = saved_models.load(tmp_path)
    x, y = draw(6, 8)
    expected = ConditionalModel(trained, units).log_density(y, x)
    torch.testing.assert_close(loaded.log_density(y, x), expected)
    torch.testing.assert_close(loaded.quantiles(x, [0.5]), ConditionalModel(trained, units).quantiles(x, [0.5]))
    assert not [name for name in trained.state_dict() if name.startswith(("pairs", "fold"))]
