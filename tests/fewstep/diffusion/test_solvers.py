"""Against the exact flow of Gaussian data, diffusers' sampling loops, and the solvers' own inverses."""

from functools import partial

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler, DPMSolverMultistepScheduler

from fewstep.diffusion.guidance import DynamicGuidance
from fewstep.diffusion.predictions import Parametrization
from fewstep.diffusion.schedules import DiscreteSchedule, RectifiedFlow
from fewstep.diffusion.solvers import consistency_sampling, ddim, dpm_solver, even_times, fixed_point, jumps
from fewstep.rng import PerSampleRng

MEAN, STD = torch.tensor([1.5, -0.5, 0.2], dtype=torch.float64), torch.tensor([0.3, 1.0, 2.0], dtype=torch.float64)
CASES = [
    Parametrization(DiscreteSchedule(), "eps"),
    Parametrization(DiscreteSchedule(), "v"),
    Parametrization(DiscreteSchedule(), "x0"),
    Parametrization(DiscreteSchedule("squaredcos_cap_v2"), "v"),
    Parametrization(RectifiedFlow(), "velocity"),
    Parametrization(RectifiedFlow(3), "velocity"),
]


def name(value):
    return f"{type(value.schedule).__name__}-{value.prediction}" if isinstance(value, Parametrization) else None


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian(parametrization, std, x, t, guidance_scale, condition):
    """The best answer for data N(MEAN, std^2): the posterior means of data and noise given x_t."""
    alpha, sigma = (level[:, None] for level in parametrization.schedule(t))
    share = (x - alpha * MEAN.to(x)) / (alpha**2 * std.to(x) ** 2 + sigma**2)
    return parametrization.target(MEAN.to(x) + alpha * std.to(x) ** 2 * share, sigma * share, t)


def exact(parametrization, x, start, end):
    """The probability flow of that data: a Gaussian's quantiles stay where they are."""
    levels = parametrization.schedule(torch.tensor([start, end], dtype=torch.float64))
    alpha, sigma = (level[:, None] for level in levels)
    spread = (alpha**2 * STD**2 + sigma**2).sqrt()
    return alpha[1] * MEAN + spread[1] / spread[0] * (x - alpha[0] * MEAN)


@pytest.mark.parametrize("parametrization", CASES, ids=name)
@pytest.mark.parametrize(("start", "end"), [(0.98, 0.04), (0.04, 0.98)], ids=["decode", "encode"])
def test_first_order_convergence_to_the_exact_flow(parametrization, start, end):
    x, denoiser = normal(4, 3), partial(gaussian, parametrization, STD)
    truth = exact(parametrization, x, start, end)
    errors = [
        (ddim(denoiser, parametrization, x, even_times(n, start, end), {}) - truth).abs().mean() for n in (80, 160)
    ]
    assert 1.5 < errors[0] / errors[1] < 2.6
    assert errors[1] < 0.05


@pytest.mark.parametrize("parametrization", CASES, ids=name)
def test_second_order_convergence_to_the_exact_flow(parametrization):
    x, denoiser = normal(4, 3), partial(gaussian, parametrization, STD)
    truth = exact(parametrization, x, 0.98, 0.04)
    errors = [
        (dpm_solver(denoiser, parametrization, x, even_times(n, 0.98, 0.04), {}) - truth).abs().mean()
        for n in (80, 160)
    ]
    assert 3 < errors[0] / errors[1] < 5.5
    assert errors[1] < 0.002


@pytest.mark.parametrize("num_steps", [1, 2, 4, 20])
@pytest.mark.parametrize(("kind", "prediction"), [("epsilon", "eps"), ("v_prediction", "v")])
def test_dpm_solver_is_the_loop_of_diffusers(num_steps, kind, prediction):
    schedule = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    scheduler = DPMSolverMultistepScheduler(
        **schedule, prediction_type=kind, timestep_spacing="trailing", final_sigmas_type="zero", lower_order_final=False
    )
    scheduler.set_timesteps(num_steps)
    parametrization, started = Parametrization(DiscreteSchedule(), prediction), normal(4, 3)
    denoiser, x = partial(gaussian, parametrization, STD), started
    for timestep in scheduler.timesteps:
        t = parametrization.schedule.time_of_timestep(timestep.double()).expand(4)
        x = scheduler.step(denoiser(x, t, None, {}), timestep, x).prev_sample
    ours = dpm_solver(denoiser, parametrization, started, even_times(num_steps, 1.0, 0.0), {})
    torch.testing.assert_close(ours, x, rtol=1e-5, atol=1e-5)


def test_dpm_solver_needs_falling_times():
    with pytest.raises(ValueError, match=r"times 0\.2, 0\.4: dpm_solver needs falling ones"):
        dpm_solver(partial(gaussian, CASES[0], STD), CASES[0], normal(4, 3), (0.2, 0.4), {})


@pytest.mark.parametrize("parametrization", [CASES[0], CASES[1], CASES[4]], ids=name)
def test_a_single_point_is_reached_in_one_step(parametrization):
    denoiser = partial(gaussian, parametrization, torch.zeros(3))
    x = normal(4, 3)
    for solver in (ddim, dpm_solver, consistency_sampling):
        torch.testing.assert_close(
            solver(denoiser, parametrization, x, (0.98, 0.0), {}), MEAN.expand(4, 3), rtol=1e-6, atol=1e-6
        )


@pytest.mark.parametrize("direction", [DDIMScheduler, DDIMInverseScheduler])
def test_fifty_steps_are_the_loop_of_diffusers(direction):
    scheduler = direction(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        timestep_spacing="trailing",
    )
    scheduler.set_timesteps(50)
    parametrization, x = CASES[0], normal(4, 3).float()
    denoiser = partial(gaussian, parametrization, STD)
    times = even_times(50) if direction is DDIMInverseScheduler else even_times(50, 1.0, 0.0)
    schedule, expected = parametrization.schedule, x
    for k, timestep in enumerate(scheduler.timesteps):
        t = torch.full((4,), times[k])
        if direction is DDIMScheduler:
            assert (schedule.timestep(t) == timestep).all()
        expected = scheduler.step(denoiser(expected, t, None, {}), timestep, expected).prev_sample
    ours = ddim(denoiser, parametrization, x, times, {})
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("parametrization", [CASES[0], CASES[1], CASES[4]], ids=name)
def test_fixed_point_undoes_few_large_steps_where_ddim_does_not(parametrization):
    x, denoiser = normal(4, 3), partial(gaussian, parametrization, 0.3 + 0 * STD)
    times = (0.0, 0.2, 0.3, 0.4)
    encoded = fixed_point(denoiser, parametrization, x, times, {}, num_iterations=100)
    torch.testing.assert_close(ddim(denoiser, parametrization, encoded, times[::-1], {}), x, rtol=1e-6, atol=1e-6)
    plain = ddim(denoiser, parametrization, x, times, {})
    assert (ddim(denoiser, parametrization, plain, times[::-1], {}) - x).abs().mean() > 0.02
    once = fixed_point(denoiser, parametrization, x, times, {}, num_iterations=0)
    torch.testing.assert_close(once, plain)


def test_consistency_sampling_noise_belongs_to_the_sample():
    parametrization, x = CASES[0], normal(3, 3).float()
    sample = partial(consistency_sampling, partial(gaussian, CASES[0], STD), parametrization)
    times = (1.0, 0.6, 0.3, 0.0)
    together = sample(x, times, {}, rng=PerSampleRng(0, ["a", "b", "c"]))
    alone = sample(x[1:2], times, {}, rng=PerSampleRng(0, ["b"]))
    torch.testing.assert_close(together[1:2], alone)
    other = sample(x, times, {}, rng=PerSampleRng(1, ["a", "b", "c"]))
    assert (together - other).abs().min() > 0


def test_consistency_sampling_keeps_the_distribution_of_a_perfect_student():
    """With the exact flow to t = 0 in place of a student, every round gives data again."""
    parametrization = CASES[0]

    def student(x, t, guidance_scale, condition):
        data = exact(parametrization, x, t[0].item(), 0.0)
        alpha, sigma = parametrization.schedule(t[:1])
        return (x - alpha * data) / sigma

    x = exact(parametrization, MEAN + STD * normal(20000, 3), 0.0, 1.0)
    sampled = consistency_sampling(
        student, parametrization, x, (1.0, 0.7, 0.4, 0.0), {}, rng=PerSampleRng(0, range(20000))
    )
    torch.testing.assert_close(sampled.mean(0), MEAN, rtol=0, atol=0.06)
    torch.testing.assert_close(sampled.std(0), STD, rtol=0.03, atol=0)


def recorded(calls):
    def denoiser(x, t, guidance_scale, condition):
        calls.append((len(x), t.tolist(), guidance_scale.tolist(), condition))
        return 0 * x + guidance_scale[:, None].to(x)

    return denoiser


@pytest.mark.parametrize(("solver", "calls_a_step"), [(ddim, 1), (fixed_point, 6), (consistency_sampling, 1)])
def test_calls_are_of_b_rows_with_scales_per_sample(solver, calls_a_step):
    """The authors computed twice the rows and threw half away, and took the first of two prompts for a null one."""
    calls, scale = [], torch.tensor([2.0, 8.0])
    times, condition = [1.0, 0.75, 0.5, 0.25], {"text": torch.ones(2, 4)}
    solver(recorded(calls), CASES[0], torch.ones(2, 3), times, condition, DynamicGuidance(scale, 0.75))
    assert len(calls) == 3 * calls_a_step
    for rows, t, scales, given in calls:
        assert rows == 2
        assert scales == ([1, 1] if t[0] > 0.75 else [2, 8])
        assert given is condition


def test_the_same_list_of_times_serves_twice():
    """The authors' generator reversed its caller's list in place."""
    times = [1.0, 0.5, 0.0]
    results = [ddim(partial(gaussian, CASES[0], STD), CASES[0], normal(2, 3), times, {}) for _ in range(2)]
    assert times == [1.0, 0.5, 0.0]
    assert torch.equal(*results)


def test_jumps_visit_every_time_and_end_where_ddim_does():
    denoiser, x = partial(gaussian, CASES[0], STD), normal(2, 3)
    states = list(jumps(denoiser, CASES[0], x, even_times(5, 1.0, 0.0), {}))
    assert len(states) == 5
    assert torch.equal(states[-1], ddim(denoiser, CASES[0], x, even_times(5, 1.0, 0.0), {}))


def test_gradients_flow_through_all_steps():
    x = normal(2, 3).requires_grad_()
    ddim(partial(gaussian, CASES[0], STD), CASES[0], x, even_times(4, 1.0, 0.0), {}).sum().backward()
    assert x.grad.abs().min() > 0


def test_half_precision_networks_leave_the_state_in_float32():
    def coarse(x, t, guidance_scale, condition):
        return gaussian(CASES[0], STD, x, t, guidance_scale, condition).to(torch.bfloat16)

    assert ddim(coarse, CASES[0], normal(2, 3).to(torch.bfloat16), even_times(4, 1.0, 0.0), {}).dtype == torch.float32


def test_even_times_end_exactly():
    assert even_times(4) == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert even_times(49, 0.02)[-1] == 1.0
    assert even_times(49, 0.02)[13] == pytest.approx(0.28)
    assert even_times(2, 1.0, 0.0) == (1.0, 0.5, 0.0)
    with pytest.raises(ValueError, match="num_steps must be at least 1, got 0"):
        even_times(0)
