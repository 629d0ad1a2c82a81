"""Models in natural units: densities by quadrature, quantiles and means by samples, units by their inverse, files."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import fewstep.transport
from fewstep.transport.conditional_model import ConditionalModel
from fewstep.transport.density_plot import draw_density
from fewstep.transport.discrete_transport import DiscreteTransport
from fewstep.transport.energy import EnergyTransport
from fewstep.transport.light_transport import LightTransport
from fewstep.transport.units import Units, read_units

UNITS = Units(2, 2, ["a", "b"], ["c", "d"], [5.0, -3e4], [2.0, 1e3], [288.0, 1e6], [8.0, 2e4])
COVARIANCES = ("diagonal", "full", "low_rank_1")


def light(covariance="full", y_dim=2, seed=0):
    """A mixture whose slopes, weights and widths depend on x."""
    torch.manual_seed(seed)
    network = LightTransport(2, y_dim, 4, 3, slope_hidden=(8,), covariance=covariance, gauge=None)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return network.eval()


def one(dim):
    """UNITS with `dim` columns of y."""
    return Units(2, dim, ["a", "b"], ["c", "d"][:dim], UNITS.x_mean, UNITS.x_std, UNITS.y_mean[:dim], UNITS.y_std[:dim])


X = [[6.0, -29500.0], [2.0, -31000.0]]


@pytest.mark.parametrize("side", ["x", "y"])
def test_restoring_undoes_standardising(side):
    values = torch.randn(50, 2, dtype=torch.float64) * 1e5
    torch.testing.assert_close(UNITS.restore(side, UNITS.standardise(side, values)), values)
    mean, std = (torch.tensor(getattr(UNITS, f"{side}_{what}"), dtype=torch.float64) for what in ("mean", "std"))
    torch.testing.assert_close(UNITS.standardise(side, mean + 3 * std), torch.full((2,), 3.0, dtype=torch.float64))


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_the_density_integrates_to_one_in_natural_units(covariance):
    model = ConditionalModel(light(covariance), UNITS)
    for row in X:
        ends = model.quantiles(row, [1e-7, 1 - 1e-7])[0]
        grids = [torch.linspace(*(ends[:, d] + torch.tensor([-1.0, 1.0]) * 2 * UNITS.y_std[d]), 601) for d in range(2)]
        density = model.log_density(torch.cartesian_prod(*grids), row).exp()
        cell = (grids[0][1] - grids[0][0]) * (grids[1][1] - grids[1][0])
        assert density.sum() * cell == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_means_and_quantiles_are_those_of_samples(covariance):
    model, n, levels = ConditionalModel(light(covariance), UNITS), 20_000, (0.05, 0.5, 0.9)
    drawn, quantiles, mean = model.sample(X, n), model.quantiles(X, levels), model.mean(X)
    assert drawn.shape == (2, n, 2)
    error = drawn.std(1) / n**0.5
    assert ((drawn.mean(1) - mean).abs() < 5 * error).all()
    for place, level in enumerate(levels):
        share = (drawn < quantiles[:, place, None]).double().mean(1)
        assert (share - level).abs().max() < 5 * (level * (1 - level) / n) ** 0.5


def test_quantiles_invert_the_integral_of_the_density():
    model = ConditionalModel(light(y_dim=1), one(1))
    for level in (0.02, 0.3, 0.77):
        end = model.quantiles(X[0], [level]).item()
        grid = torch.linspace(end - 40 * UNITS.y_std[0], end, 40_001, dtype=torch.float64)
        density = model.log_density(grid[:, None], X[0]).exp()
        assert torch.trapezoid(density, grid).item() == pytest.approx(level, abs=1e-4)


def test_a_row_answers_the_same_alone_and_among_others():
    model = ConditionalModel(light(), UNITS)
    both = model.sample(X, 7, seed=3)
    assert torch.equal(model.sample(X[1], 7, seed=3, keys=[1])[0], both[1])
    assert not torch.equal(model.sample(X, 7, seed=4), both)
    y = both[:, 0]
    torch.testing.assert_close(model.log_density(y, X)[1:], model.log_density(y[1], X[1]))
    torch.testing.assert_close(model.log_density(torch.stack([y[0], y[1]]), X[1])[1], model.log_density(y[1], X[1])[0])


def test_draws_beyond_one_block_are_of_the_same_law():
    model = ConditionalModel(light(y_dim=1), one(1))
    drawn = model.sample(X, 6000)[:, :, 0]
    assert len(drawn[0].unique()) == 6000
    first, last = drawn[:, :4096], drawn[:, 4096:]
    error = drawn.std(1) * (1 / 4096 + 1 / 1904) ** 0.5
    assert ((first.mean(1) - last.mean(1)).abs() < 5 * error).all()


def test_an_energy_answers_by_samples_and_labels_by_probabilities():
    torch.manual_seed(0)
    energy = EnergyTransport(2, 1, (8,), (8,), num_nodes=64, num_steps=2)
    energy.initialise(torch.randn(200, 2), torch.randn(200, 1))
    model = ConditionalModel(energy.eval(), one(1))
    middle = model.quantiles(X, [0.25, 0.5, 0.75])
    assert (middle.diff(dim=1) > 0).all()
    assert ((model.mean(X)[:, 0] - 288).abs() < 24).all()
    labels = ConditionalModel(DiscreteTransport(2, 3, (4,)), Units(2, 1))
    torch.testing.assert_close(labels.class_probabilities(X).sum(1), torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(
        labels.log_density([[2.0], [0.0]], X).exp(), labels.class_probabilities(X)[[0, 1], [2, 0]]
    )
    for ask in (labels.mean, lambda x: labels.quantiles(x, [0.5]), lambda x: draw_density(labels, x)):
        with pytest.raises(ValueError, match="labels have no mean"):
            ask(X[0])


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda m: m.mean([1.0, 2.0, 3.0]), r"x of shape \[3\]: give rows of 2 numbers \(a, b\)"),
        (lambda m: m.mean([[1.0, float("nan")]]), "row 1 of x is not finite"),
        (lambda m: m.mean([[1.0, 2.0], [1e300, 0.0]]), "row 2 of x is not finite, or far beyond"),
        (lambda m: m.log_density([[1.0, 2.0]] * 3, X), "3 rows of y for 2 of x"),
        (lambda m: m.quantiles(X, [0.0]), "give levels above 0"),
        (lambda m: m.sample(X, 0), "n=0: draw at least one"),
        (lambda m: draw_density(m, X), "a picture shows one x, not 2"),
    ],
)
def test_what_cannot_be_asked_is_one_line(ask, message):
    with pytest.raises(ValueError, match=message):
        ask(ConditionalModel(light(), UNITS))


@pytest.mark.parametrize("y_dim", [1, 2])
def test_the_picture_is_of_the_exact_density(y_dim):
    model = ConditionalModel(light(y_dim=y_dim), one(y_dim))
    figure = draw_density(model, X[0], model.mean(X[0])[0])
    (axes,) = figure.axes
    if y_dim == 1:
        grid, density = axes.lines[0].get_data()
        assert np.trapezoid(density, grid) == pytest.approx(1, abs=5e-3)
    low, high = model.quantiles(X[0], [0.01, 0.99])[0, :, 0]
    assert axes.get_xlim()[0] < low
    assert axes.get_xlim()[1] > high
    assert axes.get_xlabel() == "c"


def test_the_picture_of_more_dimensions_shows_samples():
    units = Units(2, 3)
    figure = draw_density(ConditionalModel(light(y_dim=3), units), [0.1, 0.2])
    assert len(figure.axes) == 9
    assert figure.axes[6].get_xlabel() == "y1"


def energy():
    network = EnergyTransport(2, 1, (4,), (4,), num_nodes=16, num_steps=2, buffer_capacity=50)
    network.initialise(torch.randn(50, 2), torch.randn(50, 1))
    return network.eval()


@pytest.mark.parametrize(
    ("network", "units"),
    [
        (lambda: light("full"), UNITS),
        (lambda: light("low_rank_1"), UNITS),
        (energy, one(1)),
        (lambda: DiscreteTransport(2, 3, (4,), class_prior=[0.5, 0.25, 0.25]), Units(2, 1)),
    ],
    ids=["full", "low_rank", "energy", "labels"],
)
def test_an_export_answers_as_what_was_saved(tmp_path, network, units):
    model = ConditionalModel(network(), units)
    fewstep.transport.save(model, tmp_path / "export")
    again = fewstep.transport.load(tmp_path / "export")
    assert again.units == units
    assert torch.equal(again.sample(X, 4, seed=1), model.sample(X, 4, seed=1))
    y = model.sample(X)[:, 0]
    assert torch.equal(again.log_density(y, X), model.log_density(y, X))
    assert sorted(file.name for file in (tmp_path / "export").iterdir()) == ["model.safetensors", "transport.json"]


def test_rows_that_only_a_training_reads_stay_there(tmp_path):
    network = light()
    network.queue = torch.randn(9, 2)
    fewstep.transport.save(ConditionalModel(network, UNITS), tmp_path)
    assert "queue" not in load_file(tmp_path / "model.safetensors")
    fewstep.transport.save(ConditionalModel(energy(), one(1)), tmp_path)
    assert not [name for name in load_file(tmp_path / "model.safetensors") if name.startswith("buffer.")]


def wrong(**changes):
    def change(told):
        for key, value in changes.items():
            part, _, name = key.partition("__")
            if name:
                told[part][name] = value
            else:
                told[part] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (wrong(schema=2), "it has schema 2, this version reads 1"),
        (wrong(network="os.system"), "network is 'os.system', expected one of LightTransport"),
        (wrong(options=[]), "options is \\[\\], expected a mapping"),
        (wrong(options__hidden=3), "its options make no LightTransport"),
        (wrong(options__covariance="round"), "its options make no LightTransport: covariance='round'"),
        (wrong(options__num_cost=10**12), "expected a number, a text or a flag"),
        (wrong(options__num_potential=2**30), "does not fit this architecture"),
        (wrong(options__slope_hidden=[[1]]), "expected a number, a text or a flag"),
        (wrong(columns__y_std=[8.0, 0.0]), "has '0.0' in y_std, not a finite number above 0"),
        (wrong(columns__y_std=[8.0, 1e305]), "in y_std, not a finite number above 0"),
        (wrong(columns__x_mean=[8.0]), "tells different numbers of columns of x"),
        (wrong(columns__x_mean="8"), "gives x_mean as '8', not as a list"),
        (wrong(columns__x_mean=None), "has one of x_mean and x_std without the other"),
        (wrong(columns__y_dim=10**9), "gives y_dim as 1000000000"),
        (wrong(columns__secret=1), "says 'secret' of its columns"),
        (wrong(columns=None), "columns is None, expected a mapping"),
    ],
)
def test_a_hostile_description_is_one_line(tmp_path, change, message):
    fewstep.transport.save(ConditionalModel(light(), UNITS), tmp_path)
    file = tmp_path / "transport.json"
    change(told := json.loads(file.read_text()))
    file.write_text(json.dumps(told))
    with pytest.raises(ValueError, match=message) as caught:
        fewstep.transport.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_weights_that_do_not_fit_or_are_not_finite_are_one_line(tmp_path):
    fewstep.transport.save(ConditionalModel(light(), UNITS), tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    save_file(state | {"center": torch.full_like(state["center"], float("nan"))}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="holds weights that are not finite"):
        fewstep.transport.load(tmp_path)
    save_file(state | {"center": state["center"][:-1].clone()}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="center has shape"):
        fewstep.transport.load(tmp_path)
    with pytest.raises(ValueError, match="neither a run nor an export"):
        fewstep.transport.load(tmp_path.parent)


def test_a_checkpoint_is_read_with_its_average_and_without_code(tmp_path):
    from fewstep.transport.saved_models import describe

    raw, average = light(), light(seed=1)
    state = {f"model.{name}": value for name, value in raw.state_dict().items()}
    averaged = {f"model.{name}": value.detach() for name, value in average.named_parameters()}
    checkpoint = {"state_dict": state, "transport": describe(raw, UNITS), "callbacks": {"EMA": {"average": averaged}}}
    file = tmp_path / "checkpoints" / "best.ckpt"
    file.parent.mkdir()
    torch.save(checkpoint, file)
    for source in (tmp_path, file):
        found = fewstep.transport.load(source)
        assert torch.equal(found.mean(X), ConditionalModel(average, UNITS).mean(X))
    torch.save(checkpoint | {"transport": None}, file)
    with pytest.raises(ValueError, match="does not tell its network and the columns of its table"):
        fewstep.transport.load(file)
    torch.save(checkpoint | {"callbacks": {"EMA": 3}}, file)
    with pytest.raises(ValueError, match=r"callbacks\.EMA is 3, expected a mapping"):
        fewstep.transport.load(file)
    torch.save(light, file)
    with pytest.raises(ValueError, match="cannot be read"):
        fewstep.transport.load(file)


def test_units_are_plain_values_both_ways():
    assert read_units(json.loads(json.dumps(UNITS.as_dict())), "f") == UNITS
    assert Units(3, 1).named("x") == ["x1", "x2", "x3"]
