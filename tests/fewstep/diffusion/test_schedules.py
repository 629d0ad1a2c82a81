"""Against diffusers' schedulers, the published table, and each schedule's own inverse."""

import math

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from fewstep.diffusion.schedules import (
    DiscreteSchedule,
    RectifiedFlow,
    add_noise,
    schedule_of_config,
    training_times,
)

COSINE = DiscreteSchedule("squaredcos_cap_v2")
ALL = [DiscreteSchedule(), DiscreteSchedule("linear", 1e-4, 0.02), COSINE, RectifiedFlow(), RectifiedFlow(3)]
SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def times(count=1000, dtype=torch.float64):
    return torch.arange(1, count + 1, dtype=dtype) / count


@pytest.mark.parametrize("config", [SD, {}, {"beta_schedule": "squaredcos_cap_v2"}], ids=["sd", "ddpm", "cosine"])
def test_training_steps_are_diffusers(config):
    scheduler = DDIMScheduler(**config)
    alpha, sigma = schedule_of_config(scheduler.config)(times(dtype=torch.float32))
    torch.testing.assert_close(alpha, scheduler.alphas_cumprod.sqrt(), rtol=1e-4, atol=1e-7)
    # 1 - alpha_bar as its float32 table has it, to the last digit of alpha_bar near 1
    torch.testing.assert_close(sigma.square(), 1 - scheduler.alphas_cumprod, rtol=1e-5, atol=2e-7)


@pytest.mark.parametrize(
    ("step", "alpha_bar", "log_snr", "flow_time"),
    [
        (0, 0.99915, 7.07, 0.028),
        (19, 0.98224, 4.01, 0.119),
        (259, 0.65898, 0.66, 0.418),
        (519, 0.25158, -1.09, 0.633),
        (779, 0.04420, -3.07, 0.823),
        (999, 0.00466, -5.36, 0.936),
    ],
)
def test_published_levels_of_stable_diffusion(step, alpha_bar, log_snr, flow_time):
    schedule = DiscreteSchedule()
    t = schedule.time_of_timestep(torch.tensor([step]))
    assert schedule(t)[0].item() ** 2 == pytest.approx(alpha_bar, abs=6e-6)
    assert schedule.log_snr(t).item() == pytest.approx(log_snr, abs=6e-3)
    assert RectifiedFlow().time(schedule.log_snr(t)).item() == pytest.approx(flow_time, abs=6e-4)


def test_data_is_time_zero():
    for schedule in ALL:
        alpha, sigma = schedule(torch.zeros(2))
        assert alpha.tolist() == [1, 1]
        assert sigma.tolist() == [0, 0]


def test_between_steps_beta_is_constant():
    """d ln(alpha^2) / dt, by finite differences, is the same everywhere within a step and changes from step to step."""
    schedule = DiscreteSchedule()
    inner = (499 + torch.linspace(0.05, 0.95, 7, dtype=torch.float64)) / 1000
    rate = torch.diff(2 * schedule(inner)[0].log()) / torch.diff(inner)
    beta = 1 - (schedule(times())[0][499] / schedule(times())[0][498]) ** 2
    torch.testing.assert_close(rate, torch.full_like(rate, 1000 * math.log1p(-beta)))


@pytest.mark.parametrize("schedule", ALL, ids=lambda s: type(s).__name__)
def test_levels_fall_and_rise_and_log_snr_inverts(schedule):
    t = times(997)[:-1]
    alpha, sigma = schedule(t)
    assert (alpha.diff() < 0).all()
    assert (sigma.diff() > 0).all()
    total = alpha + sigma if isinstance(schedule, RectifiedFlow) else alpha**2 + sigma**2
    torch.testing.assert_close(total, torch.ones_like(t))
    torch.testing.assert_close(schedule.log_snr(t), 2 * (alpha / sigma).log())
    torch.testing.assert_close(schedule.time(schedule.log_snr(t)), t, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("schedule", ALL, ids=lambda s: type(s).__name__)
def test_float32_keeps_its_digits(schedule):
    t = times(dtype=torch.float32)[:-1]
    for low, high in zip(schedule(t), schedule(t.double()), strict=True):
        torch.testing.assert_close(low.double(), high, rtol=2e-4, atol=1e-9)
    middle = (t > 0.01) & (t < 0.99)
    torch.testing.assert_close(schedule.time(schedule.log_snr(t))[middle], t[middle], rtol=1e-4, atol=1e-6)


def test_time_clamps_what_the_schedule_does_not_reach():
    assert DiscreteSchedule().time(torch.tensor([math.inf, -50.0])).tolist() == [0, 1]


def test_timesteps_come_back():
    schedule = DiscreteSchedule()
    steps = torch.arange(1000)
    assert (schedule.timestep(schedule.time_of_timestep(steps)) == steps).all()
    assert schedule.timestep(torch.zeros(1)).item() == 0
    assert schedule.timestep(torch.zeros(1)).dtype == torch.int64


def test_the_cosine_schedule_is_its_closed_form():
    """Nichol and Dhariwal 2021, Eq. 17."""
    t = times()[:990]  # the last betas are capped
    alpha = torch.cos((t + 0.008) / 1.008 * math.pi / 2) / math.cos(0.008 / 1.008 * math.pi / 2)
    torch.testing.assert_close(COSINE(t), (alpha, (1 - alpha**2).sqrt()))


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_is_diffusers(shift):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    schedule = schedule_of_config(scheduler.config)
    t = times(dtype=torch.float32).flip(0)
    torch.testing.assert_close(schedule(t)[1], scheduler.sigmas)
    torch.testing.assert_close(schedule.timestep(t), scheduler.timesteps)


def test_noise_is_added_per_sample_as_diffusers_does():
    generator = torch.Generator().manual_seed(0)
    data, noise = torch.randn(2, 4, 3, 5, 5, generator=generator)
    steps, schedule = torch.tensor([0, 19, 500, 999]), DiscreteSchedule()
    expected = DDIMScheduler(**SD).add_noise(data, noise, steps)
    torch.testing.assert_close(add_noise(schedule, data, noise, schedule.time_of_timestep(steps)), expected)


def test_times_keep_shape_and_type():
    for schedule in ALL:
        for t in (torch.tensor(0.5), torch.rand(3, 2), torch.rand(4).double()):
            for level in (*schedule(t), schedule.log_snr(t)):
                assert level.shape == t.shape
                assert level.dtype == t.dtype


@pytest.mark.parametrize("dtype", [torch.int64, torch.bfloat16, torch.float16])
def test_training_steps_and_coarse_numbers_are_refused_as_times(dtype):
    for schedule in ALL:
        with pytest.raises(ValueError, match=r"times are float32 or float64 in \[0, 1\], got torch"):
            schedule(torch.ones(2, dtype=dtype))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DiscreteSchedule("cosine"), "'cosine' is unknown; choose"),
        (lambda: DiscreteSchedule(betas=[0.1, 1.0]), r"betas must be numbers in \[0, 1\)"),
        (lambda: RectifiedFlow(0), "shift must be positive, got 0"),
        (lambda: schedule_of_config({"_class_name": "KarrasVeScheduler"}), "KarrasVeScheduler has neither"),
        (lambda: schedule_of_config({"shift": 3.0, "use_dynamic_shifting": True}), "use_dynamic_shifting=True shifts"),
        (lambda: schedule_of_config({**SD, "rescale_betas_zero_snr": True}), "rescale_betas_zero_snr=True is not"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("schedule", [DiscreteSchedule(), COSINE, RectifiedFlow(3.0)])
def test_training_times_are_the_steps_each_as_likely(schedule):
    uniform = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    times, counts = training_times(schedule, uniform).unique(return_counts=True)
    torch.testing.assert_close(times, torch.arange(1, 1001, dtype=torch.float64) / 1000)
    assert counts.tolist() == [4] * 1000
    assert training_times(schedule, torch.tensor([1 - 2**-24])).item() == 1
