"""Every baseline's density against quadrature, its samples against its density, and its loss against the formula."""

import math

import pytest
import torch

from benchmarks.ot_conditional.baselines import (
    CGAN,
    UGAN,
    ConditionalFlow,
    FlowMatching,
    MixtureDensityNetwork,
    Regression,
)
from fewstep.rng import PerSampleRng

SIZE = {"width": 16}
BUILD = {
    "regression": lambda: Regression(3, 2, **SIZE),
    "mdn_full": lambda: MixtureDensityNetwork(3, 2, 4, floor=0.1, **SIZE),
    "mdn_diagonal": lambda: MixtureDensityNetwork(3, 2, 4, full=False, floor=0.1, **SIZE),
    "flow_spline": lambda: ConditionalFlow(3, 2, num_transforms=2, **SIZE),
    "flow_affine": lambda: ConditionalFlow(3, 2, spline=False, num_transforms=2, **SIZE),
    "flow_semi": lambda: ConditionalFlow(3, 2, 0.5, spline=False, num_transforms=2, **SIZE),
    "flow_matching": lambda: FlowMatching(3, 2, **SIZE),
    "cgan": lambda: CGAN(3, 2, **SIZE),
    "ugan": lambda: UGAN(3, 2, **SIZE),
}
GANS = ("cgan", "ugan")


def draw(n):
    """y = A x + noise with unequal, correlated noise; A mixes the three conditions."""
    x = torch.randn(n, 3)
    noise = torch.randn(n, 2) @ torch.tensor([[0.5, 0.3], [0.0, 0.3]])
    return x, x @ torch.tensor([[0.6, 0.0], [0.0, -0.5], [0.3, 0.3]]) + noise


def ot_batch(n=64):
    x, y = draw(n)
    return {"x": x, "y": y, "x_unpaired": draw(n // 2)[0], "y_unpaired": draw(n // 4)[1]}


def step(optimizer, loss):
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def trained(name, num_steps=60):
    """A few large steps: enough to be far from the start, where many mistakes hide."""
    model = BUILD[name]()
    if hasattr(model, "initialise"):
        model.initialise(*draw(50))
    if name in GANS:
        generator = torch.optim.AdamW(model.generator_parameters(), **{**model.generator_adam, "lr": 3e-3})
        discriminator = torch.optim.AdamW(model.discriminator_parameters(), **{**model.discriminator_adam, "lr": 3e-3})
        for _ in range(num_steps):
            step(discriminator, model.discriminator_loss(ot_batch()))
            step(generator, model.generator_loss(ot_batch()))
    else:
        adam = torch.optim.AdamW(model.parameters(), **{**model.adam, "lr": 1e-2})
        for _ in range(num_steps):
            step(adam, sum(model.losses(ot_batch()).values()))
    if hasattr(model, "calibrate"):
        model.calibrate(*draw(100))
    return model


@pytest.mark.learns
@pytest.mark.parametrize("name", BUILD)
def test_density_integrates_to_one_and_samples_follow_it(name, below):
    model = trained(name)
    reach, side = (6.0, 121) if name in (*GANS, "flow_matching") else (9.0, 181)
    axis = torch.linspace(-reach, reach, side)
    grid = torch.cartesian_prod(axis, axis)
    x = torch.tensor([[0.5, -0.3, 0.8]])
    with torch.inference_mode():
        weight = model.log_density(grid, x.expand(len(grid), -1)).exp() * (axis[1] - axis[0]) ** 2
        sample = model.sample(x.expand(3000, -1), PerSampleRng(0, range(3000)))
    below("mass", abs(weight.sum().item() - 1), 0.01)
    mean = weight @ grid
    covariance = (weight[:, None] * (grid - mean)).T @ (grid - mean)
    widest = covariance.diagonal().max()
    off = (sample.mean(0) - mean).abs().max() / widest.sqrt()
    if name in GANS:  # the density is that of 256 blurred samples, not of the generator itself
        below("mean", off, 4 / math.sqrt(256))
    else:
        below("mean", off, 5 / math.sqrt(3000))
        below("covariance", (torch.cov(sample.T) - covariance).abs().max() / widest, 0.12)


@pytest.mark.learns
@pytest.mark.parametrize("name", [name for name in BUILD if name not in GANS])
def test_it_beats_the_marginal_of_y(name, below):
    """Held-out NLL against the best Gaussian that ignores x."""
    model = trained(name, num_steps=150)
    x, y = draw(400)
    gaussian = torch.distributions.MultivariateNormal(y.mean(0), torch.cov(y.T))
    with torch.no_grad():
        below("0.3 nats", 0.3, (model.log_density(y, x) - gaussian.log_prob(y)).mean())


@pytest.mark.parametrize("name", BUILD)
def test_samples_belong_to_their_row(name):
    model = trained(name, num_steps=2)
    x = draw(6)[0]
    with torch.inference_mode():
        whole = model.sample(x, PerSampleRng(0, range(6)))
        assert torch.allclose(model.sample(x[[4, 1]], PerSampleRng(0, [4, 1])), whole[[4, 1]], atol=1e-4)
        assert not torch.allclose(model.sample(x, PerSampleRng(1, range(6))), whole, atol=1e-4)


def test_regression_density_is_the_gaussian_of_its_residuals():
    model = Regression(3, 2, **SIZE)
    x, y = draw(500)
    model.calibrate(x, y)
    with torch.no_grad():
        residual = y - model.net(x)
        law = torch.distributions.MultivariateNormal(torch.zeros(2), torch.diag(residual.square().mean(0)))
        assert torch.allclose(model.log_density(y, x), law.log_prob(residual), atol=1e-5)


def test_mixture_density_equals_torch_distributions():
    """The chain of regressions as the covariance (I - N)^-1 S^2 (I - N)^-T."""
    model = trained("mdn_full", num_steps=20)
    x, y = draw(5)
    with torch.no_grad():
        log_w, mean, std, chain = model.components(x)
        factor = torch.linalg.inv(torch.eye(2) - chain) @ torch.diag_embed(std)
        components = torch.distributions.MultivariateNormal(mean, scale_tril=factor)
        mixture = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(logits=log_w), components)
        assert torch.allclose(model.log_density(y, x), mixture.log_prob(y), atol=1e-4)
        assert std.min() >= model.floor


def test_mixture_starts_at_the_training_targets():
    model = MixtureDensityNetwork(3, 2, 4, **SIZE)
    x, y = draw(30)
    model.initialise(x, y)
    with torch.no_grad():
        _, mean, std, _ = model.components(torch.zeros(1, 3))
    assert torch.cdist(mean[0], y).min(1).values.max() < 0.2
    assert torch.allclose(std[0].mean(0), 0.5 * y.std(0), rtol=0.2)


def test_semi_supervised_flow_uses_the_full_product():
    """Brute force over all (x_i, y_j); the authors' code averaged over the diagonal pairs repeated B times."""
    model = trained("flow_semi", num_steps=10)
    model.x_noise = model.y_noise = 0.0
    batch = ot_batch(24)
    with torch.no_grad():
        marginal = 0.0
        for y in batch["y_unpaired"]:
            density = [model.log_density(y[None], x[None]).exp().item() for x in batch["x_unpaired"]]
            marginal += math.log(sum(density) / len(density)) / len(batch["y_unpaired"])
        terms = model.losses(batch)
    assert terms["marginal"].item() == pytest.approx(-0.5 * marginal, rel=1e-4)
    assert terms["nll"].item() == pytest.approx(-model.log_density(batch["y"], batch["x"]).mean().item(), rel=1e-5)


def test_flow_matching_is_exact_for_a_linear_velocity():
    """v = y + x_0 grows densities by e over the unit path: y = e^-1 (noise + x_0) - x_0, a Gaussian in closed form."""
    model = FlowMatching(1, 2, num_steps=20)
    model.velocity = lambda t, y, x: y + x
    x, y = torch.randn(7, 1), torch.randn(7, 2)
    law = torch.distributions.Normal(x * math.exp(-1) - x, math.exp(-1))
    assert torch.allclose(model.log_density(y, x), law.log_prob(y).sum(1), atol=1e-4)
    noise = PerSampleRng(3, range(7)).normal(2)
    assert torch.allclose(model.sample(x, PerSampleRng(3, range(7))), law.mean + law.stddev * noise, atol=1e-4)


def test_flow_matching_target_points_from_data_to_noise():
    """With a constant target y the loss is minimal for v = noise - data = (y_t - data) / t."""
    model = FlowMatching(1, 1, x_noise=0.0, y_noise=0.0)
    model.velocity = lambda t, y, x: (y - 2.0) / t
    assert model.losses({"x": torch.zeros(500, 1), "y": torch.full((500, 1), 2.0)})["velocity"] < 1e-6


def test_gan_density_needs_a_bandwidth():
    with pytest.raises(ValueError, match="call calibrate"):
        CGAN(3, 2, **SIZE).log_density(*draw(4)[::-1])


def test_gan_density_is_the_kernel_average_and_its_bandwidth_the_best_on_the_grid():
    model = CGAN(3, 2, **SIZE)
    x, y = draw(70)
    model.calibrate(x, y)
    generator = model.generator

    def by_hand(bandwidth):
        with torch.no_grad():
            centres = torch.stack([generator.net(torch.cat([row.expand(256, -1), generator.kernels], 1)) for row in x])
            log_kernel = torch.distributions.Normal(centres, bandwidth).log_prob(y[:, None]).sum(-1)
            return log_kernel.logsumexp(1) - math.log(256)

    best = generator.bandwidth.item()
    assert torch.allclose(model.log_density(y, x), by_hand(best), atol=1e-4)
    assert by_hand(best).mean() >= max(by_hand(best * factor).mean() for factor in (0.5, 0.79, 1.26, 2))


def test_discriminator_loss_by_hand():
    model = CGAN(3, 2, r1=0.7, **SIZE)
    batch = ot_batch(8)
    model.generator.forward = lambda x: x[:, :2] * 3
    real = torch.cat([batch["x"], batch["y"]], 1)
    fake = torch.cat([batch["x_unpaired"], batch["x_unpaired"][:, :2] * 3], 1)
    slopes = torch.stack([torch.autograd.functional.jacobian(model.discriminator, row)[0] for row in real])
    expected = (
        -torch.sigmoid(model.discriminator(real)).log().mean()
        - (1 - torch.sigmoid(model.discriminator(fake))).log().mean()
    )
    expected = expected + 0.35 * slopes.square().sum(1).mean()
    assert model.discriminator_loss(batch).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("name", GANS)
def test_each_player_has_its_own_parameters(name):
    model = BUILD[name]()
    model.discriminator_loss(ot_batch()).backward()
    assert all(p.grad is None for p in model.generator_parameters())
    assert all(p.grad is not None for p in model.discriminator_parameters())
    assert len(model.generator_parameters()) + len(model.discriminator_parameters()) == len(list(model.parameters()))


def test_ugan_ignores_which_y_belongs_to_which_x_except_through_pairs():
    model = UGAN(3, 2, pair_weight=0.0, **SIZE)
    batch = ot_batch()
    torch.manual_seed(1)
    before = model.generator_loss(batch), model.discriminator_loss(batch)
    batch["y"] = batch["y"].flip(0)
    torch.manual_seed(1)
    assert (model.generator_loss(batch), model.discriminator_loss(batch)) == before
    model.pair_weight = 1.0
    torch.manual_seed(1)
    assert model.generator_loss(batch) > before[0]
