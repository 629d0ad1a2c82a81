"""Against the table of diffusers' own noise levels, and against what is mixed."""

import pytest
import torch
from diffusers import DDPMScheduler

from fewstep.collaboration.rollback import Rollback
from fewstep.diffusion.schedules import DiscreteSchedule, RectifiedFlow, add_noise

STABLE_DIFFUSION = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


@pytest.mark.parametrize("variance", [0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.01, 0.99])
def test_the_first_step_of_diffusers_with_so_much_noise(variance):
    noise = 1 - DDPMScheduler(**STABLE_DIFFUSION).alphas_cumprod
    first = int((noise >= variance).nonzero()[0])
    assert Rollback(variance).time(DiscreteSchedule()) == pytest.approx((first + 1) / 1000)


def test_the_published_table():
    steps = [round(1000 * Rollback(v).time(DiscreteSchedule())) - 1 for v in (0.3, 0.4, 0.5, 0.6, 0.7, 0.75)]
    assert steps == [234, 295, 354, 416, 483, 521]


@pytest.mark.parametrize("schedule", [DiscreteSchedule(), RectifiedFlow(3)])
def test_noise_is_the_share_that_was_asked_for(schedule):
    t = torch.tensor([Rollback(0.4).time(schedule)], dtype=torch.float64)
    alpha, sigma = schedule(t)
    assert sigma.square() / (alpha.square() + sigma.square()) == pytest.approx(0.4, abs=0.002)
    if isinstance(schedule, DiscreteSchedule):
        data, noise = torch.randn(2, 1, 8, dtype=torch.float64).unbind(0)
        mixed = 0.6**0.5 * data + 0.4**0.5 * noise
        torch.testing.assert_close(add_noise(schedule, data, noise, t), mixed, atol=0.01, rtol=0.01)


def test_a_time_is_a_time():
    assert Rollback(0.4, "time").time(DiscreteSchedule()) == 0.4


def test_what_no_step_has():
    assert Rollback(1e-10).time(DiscreteSchedule()) == 0.001  # the first step has more
    with pytest.raises(ValueError, match=r"rollback_variance=0\.999: the schedule ends with less noise; regenerate"):
        Rollback(0.999).time(DiscreteSchedule())


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, float("nan")])
@pytest.mark.parametrize("kind", ["variance", "time"])
def test_ends_are_no_rollback(value, kind):
    with pytest.raises(ValueError, match=rf"rollback_{kind}=.*inside \(0, 1\)"):
        Rollback(value, kind)
