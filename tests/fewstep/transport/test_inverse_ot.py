"""The closed forms of inverse entropic OT against quadrature, explicit mixtures, LightSB and brute force."""

import math

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from fewstep.transport import inverse_ot, mixtures
from fewstep.transport.inverse_ot import Cost, Potential


def log_density_mixture(y, potential, cost):
    """The density as the explicit mixture of Prop. 3.2, [B]."""
    num_w = len(potential.log_w)
    batch, num_v, dim = cost.slope.shape
    index = torch.arange(num_w, device=y.device).expand(batch, num_v, num_w).flatten()
    slope = cost.slope[:, :, None].expand(batch, num_v, num_w, dim).reshape(-1, dim)
    mean = (potential.center[index] + potential.covariance.shift(slope, index)).unflatten(0, (batch, num_v, num_w))
    component = torch.distributions.MultivariateNormal(mean, potential.covariance.dense(), validate_args=False)
    log_z = inverse_ot.log_components(potential, cost).flatten(1).log_softmax(-1)
    return torch.logsumexp(log_z + component.log_prob(y[:, None, None]).flatten(1), dim=-1)


def random_potential(n, d, kind="diagonal", seed=0):
    g = torch.Generator().manual_seed(seed)
    var = 0.2 + torch.rand(n, d, generator=g, dtype=torch.float64)
    covariance = {
        "diagonal": lambda: mixtures.DiagonalCovariance(var),
        "low_rank": lambda: mixtures.LowRankCovariance(torch.randn(n, d, 1, generator=g, dtype=torch.float64), var),
        "full": lambda: mixtures.FullCovariance(
            torch.randn(n, d, d, generator=g, dtype=torch.float64).tril(-1) + torch.diag_embed(var)
        ),
    }[kind]()
    log_w = torch.randn(n, generator=g, dtype=torch.float64).log_softmax(0)
    return Potential(log_w, torch.randn(n, d, generator=g, dtype=torch.float64), covariance)


def random_cost(b, m, d, seed=0):
    g = torch.Generator().manual_seed(100 + seed)
    log_v = torch.randn(b, m, generator=g, dtype=torch.float64).log_softmax(-1)
    return Cost(log_v, torch.randn(b, m, d, generator=g, dtype=torch.float64))


KINDS = ["diagonal", "low_rank", "full"]


@pytest.mark.parametrize(("n", "m"), [(1, 1), (3, 2), (5, 4)])
def test_log_normalizer_equals_quadrature_1d(n, m):
    potential, cost = random_potential(n, 1), random_cost(6, m, 1)
    y = torch.linspace(-25, 25, 80_001, dtype=torch.float64)[:, None]
    f = inverse_ot.potential_value(potential, y)
    for i in range(6):
        row = Cost(cost.log_v[i : i + 1].expand(len(y), -1), cost.slope[i : i + 1].expand(len(y), -1, -1))
        integral = torch.trapezoid((f - inverse_ot.cost_value(row, y)).exp(), y[:, 0])
        torch.testing.assert_close(inverse_ot.log_normalizer(potential, cost)[i], integral.log(), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_density_integrates_to_one_2d(kind):
    potential, cost = random_potential(3, 2, kind), random_cost(1, 2, 2)
    axis = torch.linspace(-20, 20, 801, dtype=torch.float64)
    y = torch.cartesian_prod(axis, axis)
    density = inverse_ot.log_density_matrix(y, potential, cost).exp().view(801, 801)
    assert torch.trapezoid(torch.trapezoid(density, axis), axis).item() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_formula_a_equals_mixture_b(kind):
    potential, cost = random_potential(5, 3, kind), random_cost(8, 4, 3)
    y = torch.randn(8, 3, dtype=torch.float64)
    a = inverse_ot.log_density(y, potential, cost)
    torch.testing.assert_close(a, log_density_mixture(y, potential, cost), rtol=1e-10, atol=1e-10)
    product = inverse_ot.log_density_matrix(y, potential, cost)
    torch.testing.assert_close(a, product.diagonal(), rtol=1e-10, atol=1e-10)


def shift_gauge(potential, cost, u):
    """(c, f) -> (c + <u, y>, f + <u, y>) within the family: the gauge freedom for diagonal covariances."""
    var = potential.covariance.var
    log_w = potential.log_w + 0.5 * (u * var * u).sum(-1) + potential.center @ u
    return (
        Potential(log_w.log_softmax(0), potential.center + var * u, potential.covariance),
        Cost(cost.log_v, cost.slope - u),
    )


def test_y_gauge_leaves_density_and_marginal_objective_alone_but_moves_the_papers_loss_without_bound():
    potential, pair, unpaired = random_potential(4, 2), random_cost(10, 3, 2, 1), random_cost(12, 3, 2, 2)
    g = torch.Generator().manual_seed(0)
    y = torch.randn(10, 2, generator=g, dtype=torch.float64)
    y_unpaired = torch.randn(9, 2, generator=g, dtype=torch.float64)

    def loss(terms, potential, pair, unpaired):
        return sum(terms(potential, pair, y, unpaired, y_unpaired).values())

    before = [loss(t, potential, pair, unpaired) for t in (inverse_ot.inverse_ot_terms, inverse_ot.marginal_terms)]
    direction = -(y.mean(0) - y_unpaired.mean(0))
    for step in (1.0, 10.0, 100.0):
        u = step * direction
        moved, moved_pair = shift_gauge(potential, pair, u)
        moved_unpaired = shift_gauge(potential, unpaired, u)[1]
        density = inverse_ot.log_density(y, moved, moved_pair)
        torch.testing.assert_close(density, inverse_ot.log_density(y, potential, pair), rtol=1e-8, atol=1e-8)
        after = [
            loss(t, moved, moved_pair, moved_unpaired) for t in (inverse_ot.inverse_ot_terms, inverse_ot.marginal_terms)
        ]
        predicted = -step * direction.square().sum()  # linear in the step: no bound below
        torch.testing.assert_close(after[0] - before[0], predicted, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(after[1], before[1], rtol=1e-8, atol=1e-8)


def test_centred_slopes_have_zero_mean_and_ignore_the_gauge():
    cost, reference = random_cost(5, 3, 2, 1), random_cost(50, 3, 2, 2)
    u = torch.tensor([3.0, -7.0], dtype=torch.float64)
    centred = inverse_ot.center_slopes(cost, reference)
    shifted = inverse_ot.center_slopes(Cost(cost.log_v, cost.slope - u), Cost(reference.log_v, reference.slope - u))
    torch.testing.assert_close(centred.slope, shifted.slope)
    own = inverse_ot.center_slopes(reference, reference)
    torch.testing.assert_close(inverse_ot.mean_slope(own), torch.zeros(2, dtype=torch.float64))


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 3.0])
def test_light_sb_is_the_special_case(epsilon):
    """M = 1, v = 1, slope(x) = x/eps, Sigma = eps S gives LightSB's conditional (Korotin et al., 2024, Prop. 3.2)."""
    g = torch.Generator().manual_seed(3)
    alpha = torch.rand(4, generator=g, dtype=torch.float64).softmax(0)
    r, s = torch.randn(4, 2, generator=g, dtype=torch.float64), 0.1 + torch.rand(4, 2, generator=g, dtype=torch.float64)
    x, y = torch.randn(6, 2, generator=g, dtype=torch.float64), torch.randn(6, 2, generator=g, dtype=torch.float64)

    log_z = alpha.log() + ((x * x) @ s.T + 2 * x @ r.T) / (2 * epsilon)
    components = MultivariateNormal(r + s * x[:, None], epsilon * torch.diag_embed(s))
    expected = MixtureSameFamily(Categorical(logits=log_z), components).log_prob(y)

    potential = Potential(alpha.log(), r, mixtures.DiagonalCovariance(epsilon * s))
    cost = Cost(torch.zeros(6, 1, dtype=torch.float64), x[:, None] / epsilon)
    torch.testing.assert_close(inverse_ot.log_density(y, potential, cost), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_sampler_has_the_moments_of_the_mixture(kind):
    potential, cost = random_potential(3, 2, kind, seed=5), random_cost(1, 2, 2, seed=5)
    draws, g = 100_000, torch.Generator().manual_seed(0)
    many = Cost(cost.log_v.expand(draws, -1), cost.slope.expand(draws, -1, -1))
    uniform = torch.rand(draws, generator=g, dtype=torch.float64)
    noise = torch.randn(draws, potential.covariance.noise_dim, generator=g, dtype=torch.float64)
    y = inverse_ot.sample(potential, many, uniform, noise)

    weight = inverse_ot.log_components(potential, cost).flatten(1).softmax(-1)[0]
    dense = potential.covariance.dense()
    means = torch.stack([potential.center[n] + dense[n] @ cost.slope[0, m] for m in range(2) for n in range(3)])
    covs = torch.stack([dense[n] for _ in range(2) for n in range(3)])
    mean = weight @ means
    cov = torch.einsum("k,kde->de", weight, covs + means[:, :, None] * means[:, None]) - mean[:, None] * mean
    z = (y.mean(0) - mean) / (cov.diagonal() / draws).sqrt()
    assert z.abs().max() < 5
    torch.testing.assert_close(torch.cov(y.T), cov, rtol=0.05, atol=0.05 * cov.diagonal().max().item())


def test_marginal_uses_every_pair_of_the_product():
    """The authors' baseline repeats x and y alike and so averages matched rows only (spec 7.7)."""
    potential, pair, unpaired = random_potential(3, 2), random_cost(4, 2, 2, 1), random_cost(5, 2, 2, 2)
    y, y_unpaired = torch.randn(4, 2, dtype=torch.float64), torch.randn(6, 2, dtype=torch.float64)
    total = 0.0
    for r in range(6):
        inner = 0.0
        for q in range(5):
            one = Cost(unpaired.log_v[q : q + 1], unpaired.slope[q : q + 1])
            inner += log_density_mixture(y_unpaired[r : r + 1], potential, one).exp().item() / 5
        total -= math.log(inner) / 6
    terms = inverse_ot.marginal_terms(potential, pair, y, unpaired, y_unpaired)
    assert terms["marginal"].item() == pytest.approx(total, rel=1e-10)
    nll = -log_density_mixture(y, potential, pair).mean()
    torch.testing.assert_close(terms["pair"], nll, rtol=1e-10, atol=1e-10)


def test_blend_interpolates_between_likelihood_and_the_papers_loss():
    potential, pair, unpaired = random_potential(3, 2), random_cost(4, 2, 2, 1), random_cost(5, 2, 2, 2)
    y, y_unpaired = torch.randn(4, 2, dtype=torch.float64), torch.randn(6, 2, dtype=torch.float64)
    args = (potential, pair, y, unpaired, y_unpaired)
    zero, one = (sum(inverse_ot.blend_terms(*args, blend).values()) for blend in (0.0, 1.0))
    torch.testing.assert_close(zero, -inverse_ot.log_density(y, potential, pair).mean())
    torch.testing.assert_close(one, sum(inverse_ot.inverse_ot_terms(*args).values()))


def test_papers_loss_on_one_sample_is_the_likelihood():
    """With the pairs in all three averages Eq. 18 is the NLL exactly (spec 1.4)."""
    potential, pair, y = random_potential(3, 2), random_cost(4, 2, 2), torch.randn(4, 2, dtype=torch.float64)
    loss = sum(inverse_ot.inverse_ot_terms(potential, pair, y, pair, y).values())
    torch.testing.assert_close(loss, -inverse_ot.log_density(y, potential, pair).mean())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("terms", [inverse_ot.inverse_ot_terms, inverse_ot.marginal_terms])
def test_gradient_of_each_term_equals_finite_differences(terms, kind):
    base, pair, unpaired = random_potential(2, 2, kind), random_cost(3, 2, 2, 1), random_cost(4, 2, 2, 2)
    y, y_unpaired = torch.randn(3, 2, dtype=torch.float64), torch.randn(3, 2, dtype=torch.float64)

    def evaluate(log_w, center, scale, slope, slope_unpaired):
        covariance = type(base.covariance)(*base.covariance[:-1], scale)
        values = terms(
            Potential(log_w.log_softmax(0), center, covariance),
            Cost(pair.log_v, slope), y, Cost(unpaired.log_v, slope_unpaired), y_unpaired,
        )  # fmt: skip
        return tuple(values.values())

    inputs = [base.log_w, base.center, base.covariance[-1], pair.slope, unpaired.slope]
    inputs = [t.clone().requires_grad_() for t in inputs]
    assert torch.autograd.gradcheck(evaluate, inputs)
    for value in evaluate(*inputs):
        grads = torch.autograd.grad(value, inputs, retain_graph=True, allow_unused=True)
        assert sum(g.abs().sum() for g in grads if g is not None) > 1e-3


def test_log_z_memory_is_independent_of_the_product_of_all_four_sizes():
    """[B, N, M, D] in float32 would take 2 GiB here."""
    potential = Potential(torch.zeros(32), torch.randn(32, 512), mixtures.DiagonalCovariance(torch.ones(32, 512)))
    cost = Cost(torch.zeros(1024, 32), torch.randn(1024, 32, 512) * 0.01)
    with torch.profiler.profile(profile_memory=True) as profile:
        inverse_ot.log_normalizer(potential, cost)
    largest = max(event.self_cpu_memory_usage for event in profile.events())
    assert largest <= 1024 * 32 * 512 * 4 * 1.01  # the squared slopes are the largest tensor
