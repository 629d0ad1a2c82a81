import math
import re

import pytest
import torch
from torch import nn

from fewstep.rng import PerSampleRng
from fewstep.transport.discrete_transport import DiscreteTransport

K = 4


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = DiscreteTransport(3, K, hidden=(), epsilon=0.3, objective="inverse_ot").double()
    nn.init.normal_(model.potential)
    return model


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return {
        "x": torch.randn(20, 3).double(),
        "y": torch.randint(K, (20, 1)).double(),
        "x_unpaired": torch.randn(30, 3).double(),
        "y_unpaired": torch.randint(K, (50, 1)).double(),
    }


def gradient(value, model):
    return torch.cat([g.flatten() for g in torch.autograd.grad(value, list(model.parameters()))])


def cross_entropy(model, x, y):
    """The same probabilities by hand: a softmax over (f - c) / epsilon."""
    return nn.functional.cross_entropy((model.potential - model.net(x)) / model.epsilon, y[:, 0].long())


def test_probabilities_sum_to_one_and_are_the_softmax(model, batch):
    log_prob = model.class_log_prob(batch["x"])
    assert torch.allclose(log_prob.exp().sum(1), torch.ones(20).double())
    assert torch.allclose(
        -model.log_density(batch["y"], batch["x"]).mean(), cross_entropy(model, batch["x"], batch["y"])
    )


def test_loss_is_the_likelihood_when_the_marginals_are_the_pairs(model, batch):
    x, y = batch["x"], batch["y"]
    loss = sum(model.losses({"x": x, "y": y, "x_unpaired": x, "y_unpaired": y}).values())
    nll = cross_entropy(model, x, y)
    assert torch.allclose(loss, nll)
    assert torch.allclose(gradient(loss, model), gradient(nll, model), atol=1e-12)


def test_loss_is_equation_18_by_hand(model, batch):
    c_pairs, c_unpaired = model.net(batch["x"]), model.net(batch["x_unpaired"])
    plain = (
        sum(c_pairs[i, int(k)] for i, k in enumerate(batch["y"])) / 20 / 0.3
        - sum(model.potential[int(k)] for k in batch["y_unpaired"]) / 50 / 0.3
        + ((model.potential - c_unpaired) / 0.3).exp().sum(1).log().mean()
    )
    g = (c_unpaired.mean() - c_pairs.mean()) / 0.3
    h = c_unpaired.mean(0) - c_unpaired.mean()
    h = (h[batch["y"].long()].mean() - h[batch["y_unpaired"].long()].mean()) / 0.3
    assert torch.allclose(sum(model.losses(batch).values()), plain + g - h)


def test_gauge_moves_neither_probabilities_nor_loss(model, batch):
    class Shifted(nn.Module):
        def __init__(self, net, h):
            super().__init__()
            self.net, self.h = net, h

        def forward(self, x):
            return self.net(x) + 100 * x.sum(1, keepdim=True).sin() + self.h

    before = model.class_log_prob(batch["x"]), sum(model.losses(batch).values())
    h = torch.tensor([50.0, -3.0, 20.0, 0.5]).double()
    model.net = Shifted(model.net, h)
    model.potential.data += h
    assert torch.allclose(model.class_log_prob(batch["x"]), before[0])
    assert torch.allclose(sum(model.losses(batch).values()), before[1])


@pytest.mark.parametrize(("objective", "term"), [("inverse_ot", "potential"), ("marginal", "marginal")])
def test_a_known_prior_replaces_labels(model, batch, objective, term):
    prior = [0.5, 0.25, 0.25, 0.0]
    labels = torch.tensor([[0.0], [0.0], [1.0], [2.0]])
    model.objective = objective
    with_labels = model.losses({**batch, "y_unpaired": labels})[term]
    del batch["y_unpaired"]
    model.class_prior = torch.tensor(prior)
    assert torch.allclose(model.losses(batch)[term], with_labels)


def test_marginal_objective_is_equation_25_by_hand(model, batch):
    model.objective = "marginal"
    pi = ((model.potential - model.net(batch["x_unpaired"])) / 0.3).exp()
    pi = pi / pi.sum(1, keepdim=True)
    shares = [sum(pi[q, int(k)] for q in range(30)) / 30 for k in batch["y_unpaired"]]
    expected = cross_entropy(model, batch["x"], batch["y"]) - sum(map(torch.log, shares)) / 50
    assert torch.allclose(sum(model.losses(batch).values()), expected)


@pytest.mark.parametrize("objective", ["marginal", "inverse_ot"])
def test_labels_of_any_dtype_give_the_same(model, batch, objective):
    model.objective = objective
    expected = torch.stack(list(model.losses(batch).values()))
    for dtype in (torch.float32, torch.int64, torch.uint8):
        labels = {name: batch[name].to(dtype) for name in ("y", "y_unpaired")}
        assert torch.equal(torch.stack(list(model.losses(batch | labels).values())), expected)
        assert torch.equal(model.log_density(labels["y"], batch["x"]), model.log_density(batch["y"], batch["x"]))


@pytest.mark.parametrize("label", [-1.0, 4.0, 0.5, 2.9999998, 3.5, 1e9, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("row", [0, 19])
def test_a_label_that_is_no_class_is_one_line(model, batch, label, row):
    y = batch["y"].clone()
    y[row] = label
    message = rf"^label {re.escape(f'{label:.9g}')} is none of the 4 classes; give whole numbers from 0 to 3, .*$"
    with pytest.raises(ValueError, match=message):
        model.initialise(batch["x"], y)
    with pytest.raises(ValueError, match=message):
        model.log_density(y, batch["x"])
    model.initialise(batch["x"], batch["y"])


@pytest.mark.parametrize(("x_dim", "y_dim", "message"), [(4, 1, "x of 4 dimensions"), (3, 2, "y of 2 dimensions")])
def test_data_of_other_dimensions_are_one_line(model, x_dim, y_dim, message):
    with pytest.raises(ValueError, match=message):
        model.initialise(torch.zeros(5, x_dim), torch.zeros(5, y_dim))


def test_diagnostics_are_the_entropy_and_the_largest_centred_cost(model, batch):
    found = model.diagnostics(batch["x"])
    entropy = torch.distributions.Categorical(logits=model.class_log_prob(batch["x"])).entropy().mean()
    assert torch.allclose(found["entropy"], entropy)
    cost = model.net(batch["x"])
    assert torch.allclose(found["cost_max"], (cost - cost.mean(1, keepdim=True)).abs().max())


def test_regression_silent_uniform_marginal(model, batch):
    """The authors' trainer never passed labels and so assumed equal classes."""
    del batch["y_unpaired"]
    with pytest.raises(ValueError, match="give labels y_unpaired in the batch or class_prior"):
        model.losses(batch)


def test_samples_follow_the_probabilities(model):
    x = torch.randn(1, 3).double().expand(20_000, -1)
    sample = model.sample(x, PerSampleRng(0, range(20_000)))
    assert sample.shape == (20_000, 1)
    assert sample.dtype == x.dtype
    counts = sample[:, 0].long().bincount(minlength=K) / 20_000
    assert torch.allclose(counts.double(), model.class_log_prob(x[:1]).exp()[0], atol=0.02)


@pytest.mark.parametrize("prior", [[0.5, 0.5], [0.5, 0.5, 0.5, -0.5], [0.1, 0.1, 0.1, 0.1]])
def test_bad_prior_is_one_clear_line(prior):
    with pytest.raises(ValueError, match="class_prior must be 4 probabilities summing to one"):
        DiscreteTransport(3, K, class_prior=prior)


@pytest.mark.parametrize(
    ("option", "value"), [("num_classes", 1), ("epsilon", 0.0), ("epsilon", -1.0), ("objective", "blend")]
)
def test_bad_options_are_named_with_their_value(option, value):
    with pytest.raises(ValueError, match=rf"{option}.*{value}"):
        DiscreteTransport(**{"x_dim": 3, "num_classes": K, option: value})


def test_parameter_groups_cover_the_model_once(model):
    groups = model.parameter_groups()
    assert sum(map(len, groups.values())) == len({id(p) for group in groups.values() for p in group}) == 3
