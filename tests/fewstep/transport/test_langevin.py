"""Langevin against stationary laws in closed form; one regression test per defect of the authors' sampler."""

import math

import pytest
import torch

from fewstep.rng import PerSampleRng
from fewstep.transport.langevin import ReplayBuffer, langevin


def standard_gaussian(y):
    return -0.5 * y.square().flatten(1).sum(1)


def chains(step_size, num_steps, **options):
    torch.manual_seed(0)
    return langevin(standard_gaussian, torch.randn(20_000, 1, dtype=torch.float64), step_size, num_steps, **options)


@pytest.mark.parametrize("step_size", [0.4, 1.0, 2.0])
def test_unadjusted_variance_is_that_of_the_discretised_chain(step_size):
    y = chains(step_size, 40)
    expected = 1 / (1 - step_size / 4)  # y' = (1 - eta/2) y + sqrt(eta) xi
    assert y.mean().abs() < 4 * math.sqrt(expected / len(y))
    assert y.var() == pytest.approx(expected, rel=4 * math.sqrt(2 / len(y)))


@pytest.mark.parametrize("step_size", [0.4, 1.0, 2.0])
def test_adjusted_chain_has_no_step_size_bias(step_size):
    assert chains(step_size, 40, adjust=True).var() == pytest.approx(1.0, rel=4 * math.sqrt(2 / 20_000))


def test_adjusted_chain_stays_exact_when_the_score_is_clipped():
    y = chains(0.8, 40, adjust=True, clip=0.5)
    assert y.var() == pytest.approx(1.0, rel=4 * math.sqrt(2 / len(y)))
    assert chains(0.8, 40, clip=0.5).var() > 1.3  # the same clip without acceptance is biased


def test_adjusted_chain_leaves_a_skewed_density_invariant():
    """Gamma(3): mean and variance 3; its score is far from linear."""
    torch.manual_seed(0)
    start = torch.distributions.Gamma(3.0, 1.0).sample((20_000, 1))
    y = langevin(lambda y: 2 * y[:, 0].log() - y[:, 0], start, 0.5, 30, adjust=True, bounds=(1e-6, 1e6))
    assert not torch.equal(y, start)
    assert y.mean() == pytest.approx(3.0, abs=4 * math.sqrt(3 / len(y)))
    assert y.var() == pytest.approx(3.0, rel=0.08)


def test_bounded_adjusted_chain_samples_the_truncated_density():
    from scipy.stats import truncnorm

    torch.manual_seed(0)
    y = langevin(standard_gaussian, 3 * torch.rand(20_000, 1), 0.5, 40, adjust=True, bounds=(0.0, 3.0))
    law = truncnorm(0, 3)
    assert y.mean() == pytest.approx(law.mean(), abs=5 * law.std() / math.sqrt(len(y)))
    assert y.var() == pytest.approx(law.var(), rel=0.05)
    assert ((y >= 0) & (y <= 3)).all()


def test_unadjusted_bounds_project_images():
    y = langevin(lambda y: 50 * y.flatten(1).sum(1), torch.zeros(2, 3, 4, 4), 0.1, 3, bounds=(-1.0, 1.0))
    assert y.shape == (2, 3, 4, 4)
    assert y.max() == 1.0


def test_regression_pseudo_langevin_constant_drift_instead_of_noise():
    """The authors' default added the constant sigma to every coordinate: a drift, and no spread from one start."""
    torch.manual_seed(0)
    y = langevin(standard_gaussian, torch.zeros(20_000, 1), 0.5, 1)
    assert y.mean().abs() < 4 * math.sqrt(0.5 / len(y))
    assert y.var() == pytest.approx(0.5, rel=0.05)


def test_regression_off_temperature_noise():
    """Their noise 0.005 at step 0.05 samples the density to the power 1/T, T = noise^2/step = 5e-4: a point mass."""
    y = langevin(standard_gaussian, torch.zeros(20_000, 1), 0.05, 200)
    assert y.var() == pytest.approx(1 / (1 - 0.05 / 4), rel=0.05)


def test_rows_are_reproducible_and_independent_of_the_batch():
    start = torch.randn(6, 2)
    whole = langevin(standard_gaussian, start, 0.3, 5, PerSampleRng(1, range(6)), adjust=True)
    part = langevin(standard_gaussian, start[[4, 2]], 0.3, 5, PerSampleRng(1, [4, 2]), adjust=True)
    assert torch.allclose(part, whole[[4, 2]], atol=1e-6)


def test_step_size_must_be_positive():
    with pytest.raises(ValueError, match="step_size must be positive, got 0"):
        langevin(standard_gaussian, torch.zeros(1, 1), 0.0, 1)


def test_regression_mismatched_buffer_rows():
    """The authors' buffer kept the current x and attached the y of another row."""
    torch.manual_seed(0)
    buffer = ReplayBuffer(50, 1, 1)
    for _ in range(9):
        x = torch.rand(8, 1)
        buffer.push(x, 10 * x)
    x, y = buffer.mix(torch.full((400, 1), -1.0), torch.full((400, 1), -10.0), probability=0.9)
    assert torch.equal(y, 10 * x)
    assert 0.05 < (x == -1).float().mean() < 0.16
    drawn = x[x != -1].unique(return_counts=True)[1]
    assert len(drawn) > 40  # the whole buffer is in play,
    assert drawn.max() < 25  # every row alike: 7 times each on average


def test_buffer_forgets_the_oldest_first():
    buffer = ReplayBuffer(5, 1, 1)
    for first in (0, 3, 6):
        rows = torch.arange(first, first + 3.0)[:, None]
        buffer.push(rows, rows)
    assert sorted(buffer.x.flatten().tolist()) == [4, 5, 6, 7, 8]
    buffer.push(torch.arange(100, 112.0)[:, None], torch.arange(100, 112.0)[:, None])  # more than fits
    assert sorted(buffer.y.flatten().tolist()) == [107, 108, 109, 110, 111]
    buffer.push(torch.tensor([[1.0]]), torch.tensor([[1.0]]))
    assert sorted(buffer.y.flatten().tolist()) == [1, 108, 109, 110, 111]


def test_empty_buffer_replays_nothing_and_unfilled_rows_are_never_drawn():
    buffer = ReplayBuffer(1000, 1, 1)
    fresh = torch.ones(64, 1)
    assert torch.equal(buffer.mix(fresh, 2 * fresh, 1.0)[0], fresh)
    buffer.push(3 * fresh[:2], 6 * fresh[:2])
    assert torch.equal(buffer.mix(fresh, 2 * fresh, 1.0)[1], 6 * fresh)


def test_buffer_is_checkpointed():
    buffer, restored = ReplayBuffer(4, 1, 2), ReplayBuffer(4, 1, 2)
    buffer.push(torch.randn(6, 1), torch.randn(6, 2))
    restored.load_state_dict(buffer.state_dict())
    newest = torch.ones(1, 1), torch.ones(1, 2)
    buffer.push(*newest)
    restored.push(*newest)
    assert torch.equal(buffer.y, restored.y)
