"""Inverse entropic OT with finitely many x and y is Sinkhorn read backwards, checked against POT.

For a fixed cost c(x_q, k) the part of the loss (18) that depends on the potential is the negated semi-dual of

    OT(c) = min_P  Σ_qk P_qk c_qk + ε Σ_qk P_qk log(P_qk / a_q),     P 1 = a = 1/Q,  Pᵀ 1 = b,

so that P_qk = a_q π(k|x_q) at its minimum. Sinkhorn writes P_qk = u_q exp(-c_qk/ε) v_k, hence f = ε log v + constant,
with no b in it. Solvers that measure entropy against the product a ⊗ b have another dual potential, β = f - ε log b.
"""

import warnings

import ot
import pytest
import torch
from torch import nn

from fewstep.transport.discrete_transport import DiscreteTransport

Q, K, PAIRS = 7, 5, 11
LABELS = torch.tensor([0, 0, 0, 1, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 4, 4])  # b = (3, 1, 4, 6, 2) / 16
A = torch.full((Q,), 1 / Q, dtype=torch.float64)
B = torch.bincount(LABELS).double() / len(LABELS)


@pytest.fixture(params=[0.05, 0.5, 5.0])
def epsilon(request):
    return request.param


@pytest.fixture
def cost():
    return torch.rand(Q, K, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model(cost, epsilon):
    """x is the row number, the net looks the cost up."""
    model = DiscreteTransport(1, K, epsilon=epsilon, objective="inverse_ot")
    model.net = nn.Embedding.from_pretrained(cost)
    return model.double()


@pytest.fixture
def batch():
    pairs = torch.Generator().manual_seed(1)
    return {
        "x": torch.randint(Q, (PAIRS,), generator=pairs),
        "y": torch.randint(K, (PAIRS, 1), generator=pairs),
        "x_unpaired": torch.arange(Q),
        "y_unpaired": LABELS[:, None],
    }


def sinkhorn(cost, epsilon):
    """The plan and ε log v, to the last digits and without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan, log = ot.sinkhorn(
            A, B, cost, epsilon, method="sinkhorn_log", numItermax=20_000, stopThr=1e-14, log=True, warn=True
        )
    return plan, epsilon * log["log_v"]


def centred(potential):
    return potential - potential.mean()


def total(model, batch):
    return torch.stack(list(model.losses(batch).values())).sum()


def minimise(model, batch):
    """Newton's method on the convex function f -> loss; a constant added to f changes nothing, hence the pinverse."""
    f = model.potential
    for _ in range(100):
        gradient = torch.autograd.grad(total(model, batch), f, create_graph=True)[0]
        hessian = torch.stack([torch.autograd.grad(g, f, retain_graph=True)[0] for g in gradient])
        newton = torch.linalg.pinv(hessian, hermitian=True) @ gradient.detach()
        f.data -= newton * min(1.0, model.epsilon / newton.abs().max().item())


def test_minimiser_of_the_loss_is_the_sinkhorn_potential(model, batch, cost, epsilon):
    minimise(model, batch)
    _, potential = sinkhorn(cost, epsilon)
    assert torch.allclose(centred(model.potential), centred(potential), rtol=0, atol=1e-11)


def test_gradient_vanishes_at_the_sinkhorn_potential_and_nowhere_near(model, batch, cost, epsilon):
    _, potential = sinkhorn(cost, epsilon)
    for shift, vanishes in ((0.0, True), (0.01 * epsilon, False)):
        model.potential.data = potential + shift * torch.arange(K)
        gradient = torch.autograd.grad(total(model, batch), model.potential)[0]
        assert (gradient.abs().max() * epsilon < 1e-12) == vanishes


def test_conditional_times_marginal_is_the_sinkhorn_plan(model, batch, cost, epsilon):
    minimise(model, batch)
    plan, _ = sinkhorn(cost, epsilon)
    conditional = model.class_log_prob(torch.arange(Q)).exp()
    assert torch.allclose(conditional / Q, plan, rtol=1e-10, atol=1e-13)
    assert torch.allclose(conditional.mean(0), B, rtol=1e-10)


def test_normaliser_is_the_entropic_transform_of_the_potential_less_epsilon_log_b(model, batch, cost, epsilon):
    """POT's c-transform weighs by b: its potential for y is f - ε log b, its potential for x then -ε log Z."""
    minimise(model, batch)
    f = model.potential.detach()
    log_z = torch.logsumexp((f - cost) / epsilon, dim=1)
    beta = f - epsilon * B.log()
    transform = ot.stochastic.c_transform_entropic(B.numpy(), cost.numpy(), epsilon, beta.numpy())
    assert torch.allclose(torch.as_tensor(transform), -epsilon * log_z, rtol=0, atol=1e-11)


def test_smallest_loss_is_mean_cost_of_the_pairs_minus_the_cost_of_transport(model, batch, cost, epsilon):
    """Eq. 14: what is left for the cost to minimise is E_pairs c - OT(c), which is what inverse OT means."""
    minimise(model, batch)
    gauged = cost - cost.mean(0) - cost.mean(1, keepdim=True) + cost.mean()  # as the loss evaluates it
    plan, _ = sinkhorn(cost, epsilon)
    transport = (plan * gauged).sum() + epsilon * (plan * (plan / A[:, None]).log()).sum()
    expected = (gauged[batch["x"], batch["y"][:, 0]].mean() - transport) / epsilon
    assert torch.allclose(total(model, batch), expected, rtol=1e-10, atol=1e-10)
