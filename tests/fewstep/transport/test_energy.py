"""The neural variant against quadrature on a grid, and its loss against the gauge that the plain loss falls along."""

import math

import pytest
import torch

from fewstep.rng import PerSampleRng
from fewstep.transport.energy import EnergyTransport, energy_loss

SIDE, REACH = 201, 9.0


@pytest.fixture(autouse=True)
def one_thread():
    """The nets are tiny: threads would only wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def model():
    """Nets with grown weights, so that conditionals differ clearly from the base; reference y far from standard."""
    torch.manual_seed(0)
    model = EnergyTransport(1, 2, (16,), (16,), epsilon=0.5, num_steps=5, buffer_capacity=200, num_nodes=1024).double()
    for parameter in [*model.cost_net.parameters(), *model.potential_net.parameters()]:
        parameter.data *= 2
    y = torch.randn(600, 2) @ torch.tensor([[2.0, 0.0], [1.5, 0.5]]) + torch.tensor([3.0, -1.0])
    model.initialise(torch.randn(400, 1) * 4 + 1, y)
    return model


def grid(model):
    """Cells of a square in whitened coordinates, mapped to y, with the area of a cell."""
    axis = torch.linspace(-REACH, REACH, SIDE, dtype=torch.float64)
    z = torch.cartesian_prod(axis, axis)
    area = (axis[1] - axis[0]).item() ** 2 * torch.linalg.det(model.y_factor).item()
    return model.y_mean + z @ model.y_factor.T, area


def log_normalizer_by_quadrature(model, x, y, area):
    energy = (model.potential(y) - model.cost(x.expand(len(y), -1), y)) / model.epsilon
    return energy.logsumexp(0) + math.log(area)


def test_log_normalizer_agrees_with_quadrature(model):
    y, area = grid(model)
    x = torch.tensor([[-3.0], [1.0], [6.0]], dtype=torch.float64)
    with torch.no_grad():
        estimate = model.log_normalizer(x)
        expected = torch.stack([log_normalizer_by_quadrature(model, row[None], y, area) for row in x])
    assert torch.allclose(estimate.value, expected, atol=0.03)
    assert ((estimate.effective_samples > 50) & (estimate.effective_samples <= 1024)).all()


def test_log_density_integrates_to_one(model):
    y, area = grid(model)
    with torch.no_grad():
        x = torch.full((len(y), 1), 2.0, dtype=torch.float64)
        energy = (model.potential(y) - model.cost(x, y)) / model.epsilon
        few = torch.randint(len(y), (5,), generator=torch.Generator().manual_seed(0))
        log_z = model.log_normalizer(x[:1]).value
        assert torch.allclose(model.log_density(y[few], x[few]), energy[few] - log_z)
        assert (energy - log_z).exp().sum() * area == pytest.approx(1.0, abs=0.03)


def test_effective_samples_count_nodes_when_all_weights_are_equal(model):
    for parameter in [*model.cost_net.parameters(), *model.potential_net.parameters()]:
        parameter.data.zero_()
    model.node_log_density.copy_(-0.5 * (model.nodes / 1.5).square().sum(1))  # nodes weighted as if drawn from f
    assert model.log_normalizer(torch.zeros(1, 1).double()).effective_samples.item() == pytest.approx(1024)


def test_normalizer_is_finite_because_f_holds_a_gaussian():
    """A net alone may grow with y; the chain from far away must come home."""
    torch.manual_seed(0)
    model = EnergyTransport(1, 1, (4,), (4,), num_steps=300, step_size=0.3, num_nodes=64)
    model.initialise(torch.randn(50, 1), torch.randn(50, 1))
    with torch.no_grad():
        far = model.potential(torch.tensor([[-1e3], [1e3]])) - model.cost(
            torch.zeros(2, 1), torch.tensor([[-1e3], [1e3]])
        )
    assert (far < -1e5).all()


def test_samples_match_quadrature_moments(model):
    y, _ = grid(model)
    x = torch.full((1500, 1), 4.0, dtype=torch.float64)
    with torch.no_grad():
        energy = (model.potential(y) - model.cost(x[:1].expand(len(y), -1), y)) / model.epsilon
    weight = energy.softmax(0)[:, None]
    mean = (weight * y).sum(0)
    covariance = (weight * (y - mean)).T @ (y - mean)
    sample = model.sample(x, PerSampleRng(0, range(1500)))
    z_score = (sample.mean(0) - mean) / (covariance.diagonal() / 1500).sqrt()
    assert z_score.abs().max() < 5
    assert torch.allclose(torch.cov(sample.T), covariance, rtol=0.15, atol=0.05 * covariance.diagonal().max().item())


def test_sample_works_inside_inference_mode_and_per_row(model):
    x = torch.randn(5, 1, dtype=torch.float64)
    with torch.inference_mode():
        whole = model.sample(x.clone(), PerSampleRng(0, range(5)))
        row = model.sample(x[3:4].clone(), PerSampleRng(0, [3]))
    assert torch.allclose(row, whole[3:4], atol=1e-9)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_surrogate_gradient_is_that_of_the_likelihood_objective(model):
    """Eq. 13 with log Z by quadrature against the surrogate with negatives drawn exactly from the same grid."""
    torch.manual_seed(1)
    y_grid, area = grid(model)
    x_pair, y_pair = torch.randn(6, 1).double(), y_grid[torch.randint(len(y_grid), (6,))] * 0.2
    y_unpaired, x = torch.randn(9, 2).double(), torch.tensor([[2.0]], dtype=torch.float64)
    parameters = list(model.cost_net.parameters()) + list(model.potential_net.parameters())

    log_z = log_normalizer_by_quadrature(model, x, y_grid, area)
    exact = model.cost(x_pair, y_pair).mean() / 0.5 - model.potential(y_unpaired).mean() / 0.5 + log_z
    expected = torch.autograd.grad(exact, parameters, allow_unused=True)

    with torch.no_grad():
        energy = (model.potential(y_grid) - model.cost(x.expand(len(y_grid), -1), y_grid)) / model.epsilon
        y_negative = y_grid[energy.softmax(0).multinomial(40_000, replacement=True)]
    negative = model.potential(y_negative) - model.cost(x.expand(40_000, -1), y_negative)
    terms = energy_loss(model.cost(x_pair, y_pair), model.potential(y_unpaired), negative, model.epsilon)
    actual = torch.autograd.grad(sum(terms.values()), parameters, allow_unused=True)
    for got, want in zip(actual, expected, strict=True):
        assert (got - want).norm() < 0.03 * max(want.norm(), 0.3)


def test_regression_missing_epsilon_on_pair_and_potential_terms():
    terms = energy_loss(torch.tensor([1.0, 3.0]), torch.tensor([5.0]), torch.tensor([7.0, 9.0]), epsilon=0.1)
    assert {name: value.item() for name, value in terms.items()} == pytest.approx(
        {"cost": 20.0, "potential": -50.0, "negative": 80.0}
    )


class Shifted:
    """The same conditional in another gauge: c + g(x) + h(y), f + h(y)."""

    def __init__(self, model, size):
        self.model, self.size = model, size
        self.cost, self.pairwise, self.potential = model._cost, model._pairwise_cost, model._potential

    def g(self, x):
        return self.size * (x.sum(1).sin() + x.sum(1))

    def h(self, z):
        return self.size * (z[:, 0] - z[:, 1].square())

    def apply(self, monkeypatch):
        monkeypatch.setattr(self.model, "_cost", lambda x, z: self.cost(x, z) + self.g(x) + self.h(z))
        monkeypatch.setattr(
            self.model, "_pairwise_cost", lambda x, z: self.pairwise(x, z) + self.g(x)[:, None] + self.h(z)
        )
        monkeypatch.setattr(self.model, "_potential", lambda z: self.potential(z) + self.h(z))


def total_loss(model):
    torch.manual_seed(5)  # the same negatives in every gauge: the score does not see g or h
    batch = {
        "x": torch.randn(12, 1),
        "y": torch.randn(12, 2),
        "x_unpaired": torch.randn(20, 1),
        "y_unpaired": torch.randn(40, 2),
    }
    model.buffer.num_pushed.zero_()
    return sum(model.losses({name: value.double() for name, value in batch.items()}).values()).item()


def test_centred_loss_is_the_same_in_every_gauge(model, monkeypatch):
    before = total_loss(model)
    Shifted(model, 100.0).apply(monkeypatch)
    assert total_loss(model) == pytest.approx(before, rel=1e-8, abs=1e-6)


def test_plain_loss_falls_along_the_gauge(model, monkeypatch):
    """What `gauge=None` (the paper's loss) does, and why it is not the default."""
    model.gauge = None
    before = total_loss(model)
    with monkeypatch.context() as patch:
        Shifted(model, 100.0).apply(patch)
        up = total_loss(model) - before
    Shifted(model, -100.0).apply(monkeypatch)
    down = total_loss(model) - before
    assert abs(up) > 10
    assert down == pytest.approx(-up, rel=1e-6)


def test_centred_and_plain_loss_agree_on_equal_samples(model):
    """With the same x and y in pairs, marginals and references the gauge terms cancel; no penalty is left over."""
    torch.manual_seed(0)
    x, y = torch.randn(16, 1).double(), torch.randn(16, 2).double()
    batch = {"x": x, "y": y, "x_unpaired": x, "y_unpaired": y}
    totals = []
    for model.gauge in ("centred", None):
        torch.manual_seed(1)
        model.buffer.num_pushed.zero_()
        totals.append(sum(model.losses(batch).values()).item())
    assert totals[0] == pytest.approx(totals[1], rel=1e-9)


def test_every_term_reaches_its_own_parameters(model):
    batch = {
        "x": torch.randn(4, 1),
        "y": torch.randn(4, 2),
        "x_unpaired": torch.randn(5, 1),
        "y_unpaired": torch.randn(6, 2),
    }
    model.gauge = None
    terms = model.losses({name: value.double() for name, value in batch.items()})
    groups = model.parameter_groups()
    reached = {
        (term, group)
        for term, value in terms.items()
        for group, parameters in groups.items()
        if any(
            g is not None and g.any()
            for g in torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        )
    }
    assert reached == {("cost", "cost"), ("potential", "potential"), ("negative", "cost"), ("negative", "potential")}
    assert sum(len(group) for group in groups.values()) == len(list(model.parameters()))


def test_training_pushes_chains_and_evaluation_does_not(model):
    total_loss(model.eval())
    assert model.buffer.num_pushed == 0
    total_loss(model.train())
    assert model.buffer.num_pushed == 20


def test_a_checkpoint_restores_scales_nodes_and_chains(model):
    total_loss(model)
    restored = EnergyTransport(
        1, 2, (16,), (16,), epsilon=0.5, num_steps=5, buffer_capacity=200, num_nodes=1024
    ).double()
    restored.load_state_dict(model.state_dict())
    x, y = torch.randn(3, 1).double(), torch.randn(3, 2).double()
    assert torch.equal(restored.log_density(y, x), model.log_density(y, x))
    assert torch.equal(restored.sample(x, PerSampleRng(0, range(3))), model.sample(x, PerSampleRng(0, range(3))))


def test_units_of_the_data_do_not_matter():
    """The same table in other units gives the same model: densities change by the Jacobian only."""
    torch.manual_seed(0)
    x, y = torch.randn(200, 2), torch.randn(200, 2)
    models = [EnergyTransport(2, 2, (8,), (8,), num_nodes=256) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    models[0].initialise(x, y)
    models[1].initialise(x * 50 + 3, y * 1000 - 7)
    with torch.no_grad():
        ours = models[0].log_density(y, x)
        theirs = models[1].log_density(y * 1000 - 7, x * 50 + 3) + 2 * math.log(1000)
    assert torch.allclose(ours, theirs, atol=2e-3)


@pytest.mark.learns
def test_it_learns_from_few_pairs_and_many_marginals(below):
    """y = x + 0.3 noise. Entropies: 0.21 nats for the conditional, 1.46 for the marginal of y."""

    def draw(n):
        x = torch.randn(n, 1)
        return x, x + 0.3 * torch.randn(n, 1)

    (x, y), (x_test, y_test), (x_unpaired, _), (_, y_unpaired) = draw(60), draw(300), draw(500), draw(500)
    model = EnergyTransport(1, 1, (32,), (32,), num_steps=5, num_nodes=256)
    model.initialise(x_unpaired, y_unpaired)
    adam = torch.optim.Adam(model.parameters(), lr=6e-3, betas=(0.2, 0.99))
    for _ in range(150):
        rows = [torch.randint(len(t), (64,)) for t in (x, x_unpaired, y_unpaired)]
        batch = {"x": x[rows[0]], "y": y[rows[0]], "x_unpaired": x_unpaired[rows[1]], "y_unpaired": y_unpaired[rows[2]]}
        adam.zero_grad()
        sum(model.losses(batch).values()).backward()
        adam.step()
    with torch.no_grad():
        below("nll", -model.log_density(y_test, x_test).mean(), 0.8)
        residual = model.sample(x_test, PerSampleRng(0, range(300))) - x_test
    below("standard deviation", abs(residual.std() - 0.3), 0.15)
    below("mean", residual.mean().abs(), 0.3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": 0.0}, "epsilon=0.0: must be positive"),
        ({"gauge": "fixed"}, "gauge must be 'centred' or null, got 'fixed'"),
        ({"num_nodes": 7}, "num_nodes must be an even number of at least 2, got 7"),
    ],
)
def test_bad_options_are_one_clear_line(options, message):
    with pytest.raises(ValueError, match=message):
        EnergyTransport(1, 1, **options)


def test_use_before_initialise_is_one_clear_line():
    with pytest.raises(ValueError, match="call initialise"):
        EnergyTransport(1, 1).log_density(torch.zeros(1, 1), torch.zeros(1, 1))


def test_a_constant_target_column_is_one_clear_line():
    with pytest.raises(ValueError, match="reference y has a constant column"):
        EnergyTransport(1, 2).initialise(torch.randn(50, 1), torch.randn(50, 1) * torch.tensor([1.0, 0.0]))


@pytest.mark.parametrize("bad", [torch.zeros(50, 3), torch.zeros(2, 2), torch.full((50, 2), float("nan"))])
def test_unusable_reference_is_one_clear_line(bad):
    with pytest.raises(
        ValueError, match=r"^(reference y must be finite|the data has y of 3 dimensions, the model y_dim=2)"
    ):
        EnergyTransport(1, 2).initialise(torch.randn(50, 1), bad)
