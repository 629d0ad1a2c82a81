import pytest
import torch
from torch import nn

from fewstep.rng import PerSampleRng
from fewstep.transport.discrete_transport import DiscreteTransport

K = 4


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = DiscreteTransport(nn.Linear(3, K), K, epsilon=0.3).double()
    nn.init.normal_(model.potential)
    return model


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return {
        "x": torch.randn(20, 3).double(),
        "y": torch.randint(K, (20,)),
        "x_unpaired": torch.randn(30, 3).double(),
        "y_unpaired": torch.randint(K, (50,)),
    }


def gradient(value, model):
    return torch.cat([g.flatten() for g in torch.autograd.grad(value, list(model.parameters()))])


def cross_entropy(model, x, y):
    """The same probabilities by hand: a softmax over (f - c) / epsilon."""
    return nn.functional.cross_entropy((model.potential - model.net(x)) / model.epsilon, y)


def test_probabilities_sum_to_one_and_are_the_softmax(model, batch):
    log_prob = model.log_prob(batch["x"])
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
        sum(c_pairs[i, k] for i, k in enumerate(batch["y"])) / 20 / 0.3
        - sum(model.potential[k] for k in batch["y_unpaired"]) / 50 / 0.3
        + ((model.potential - c_unpaired) / 0.3).exp().sum(1).log().mean()
    )
    g = (c_unpaired.mean() - c_pairs.mean()) / 0.3
    h = c_unpaired.mean(0) - c_unpaired.mean()
    h = (h[batch["y"]].mean() - h[batch["y_unpaired"]].mean()) / 0.3
    assert torch.allclose(sum(model.losses(batch).values()), plain + g - h)


def test_gauge_moves_neither_probabilities_nor_loss(model, batch):
    class Shifted(nn.Module):
        def __init__(self, net, h):
            super().__init__()
            self.net, self.h = net, h

        def forward(self, x):
            return self.net(x) + 100 * x.sum(1, keepdim=True).sin() + self.h

    before = model.log_prob(batch["x"]), sum(model.losses(batch).values())
    h = torch.tensor([50.0, -3.0, 20.0, 0.5]).double()
    model.net = Shifted(model.net, h)
    model.potential.data += h
    assert torch.allclose(model.log_prob(batch["x"]), before[0])
    assert torch.allclose(sum(model.losses(batch).values()), before[1])


def test_a_known_prior_replaces_labels(batch):
    prior = [0.5, 0.25, 0.25, 0.0]
    labels = torch.tensor([0, 0, 1, 2])
    torch.manual_seed(0)
    net = nn.Linear(3, K).double()
    with_labels = DiscreteTransport(net, K).double().losses({**batch, "y_unpaired": labels})
    del batch["y_unpaired"]
    with_prior = DiscreteTransport(net, K, class_prior=prior).double().losses(batch)
    assert torch.allclose(with_prior["potential"], with_labels["potential"])


def test_regression_silent_uniform_marginal(model, batch):
    """The authors' trainer never passed labels and so assumed equal classes."""
    del batch["y_unpaired"]
    with pytest.raises(ValueError, match="give labels y_unpaired in the batch or class_prior"):
        model.losses(batch)


def test_samples_follow_the_probabilities(model):
    x = torch.randn(1, 3).double().expand(20_000, -1)
    counts = model.sample(x, PerSampleRng(0, range(20_000))).bincount(minlength=K) / 20_000
    assert torch.allclose(counts.double(), model.log_prob(x[:1]).exp()[0], atol=0.02)


@pytest.mark.parametrize("prior", [[0.5, 0.5], [0.5, 0.5, 0.5, -0.5], [0.1, 0.1, 0.1, 0.1]])
def test_bad_prior_is_one_clear_line(prior):
    with pytest.raises(ValueError, match="class_prior must be 4 probabilities summing to one"):
        DiscreteTransport(nn.Linear(3, K), K, class_prior=prior)


def test_parameter_groups_cover_the_model_once(model):
    groups = model.parameter_groups()
    assert sum(map(len, groups.values())) == len({id(p) for group in groups.values() for p in group}) == 3
