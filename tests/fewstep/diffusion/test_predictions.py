"""Against diffusers' DDIM, inverse DDIM and flow steps, published coefficients, and data whose noise is known."""

import itertools

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.training_utils import compute_snr

from fewstep.diffusion.predictions import Parametrization, parametrization_of_config
from fewstep.diffusion.schedules import DiscreteSchedule, RectifiedFlow

KINDS = ["eps", "x0", "v", "velocity"]
SCHEDULES = [DiscreteSchedule(), DiscreteSchedule("squaredcos_cap_v2"), RectifiedFlow(), RectifiedFlow(3)]
SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False}
EVERY = [Parametrization(s, k) for s, k in itertools.product(SCHEDULES, KINDS)]


def name(value):
    return f"{type(value.schedule).__name__}-{value.prediction}" if isinstance(value, Parametrization) else None


def normal(count, *shape, seed=0, dtype=torch.float32):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("direction", ["decode", "encode"])
def test_one_jump_is_one_step_of_diffusers(kind, direction):
    """With timestep_spacing "trailing", 50 steps visit 999, .., 19 and end in the data: our 1, .98, .., .02, 0."""
    decoding = direction == "decode"
    scheduler = (DDIMScheduler if decoding else DDIMInverseScheduler)(
        **SD, prediction_type=kind, timestep_spacing="trailing"
    )
    scheduler.set_timesteps(50)
    parametrization = parametrization_of_config(scheduler.config)
    x, output = normal(2, 3, 4, 5)
    steps = range(1, 51) if decoding or kind != "sample" else range(2, 51)  # data say nothing of the noise at t = 0
    for k in steps:
        t, s = torch.full((3,), k / 50), torch.full((3,), (k - 1) / 50)
        ours = parametrization.jump(x, output, *((t, s) if decoding else (s, t)))
        expected = scheduler.step(output, 20 * k - 1, x).prev_sample
        torch.testing.assert_close(ours, expected, rtol=2e-4, atol=2e-5)


def test_one_flow_jump_is_one_step_of_diffusers():
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    parametrization = parametrization_of_config(scheduler.config)
    x, output = normal(2, 3, 4)
    for index in (0, 300, 998):
        t, s = torch.tensor(1 - index / 1000), torch.tensor(1 - (index + 1) / 1000)
        scheduler._step_index = index
        expected = scheduler.step(output, scheduler.timesteps[index], x).prev_sample
        torch.testing.assert_close(parametrization.jump(x, output, t, s), expected)


GOLDEN = {  # training steps t -> s on the Stable Diffusion schedule; -1 is the data
    (999, 779): (3.07975, -2.09492),
    (779, 519): (2.38574, -1.46730),
    (519, 259): (1.61845, -0.81617),
    (259, -1): (1.23187, -0.71938),
    (259, 19): (1.22089, -0.57971),
    (19, 259): (0.81908, 0.47483),
    (259, 519): (0.61788, 0.50429),
    (519, 779): (0.41916, 0.61503),
    (779, 999): (0.32470, 0.68022),
    (999, 699): (4.22354, -3.25616),
    (699, 499): (1.82764, -0.90012),
    (499, 249): (1.55965, -0.75584),
    (249, -1): (1.21677, -0.69320),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_published_coefficients(dtype):
    schedule = DiscreteSchedule()
    steps = torch.tensor(list(GOLDEN), dtype=dtype)
    coefficients = Parametrization(schedule, "eps").coefficients(*schedule.time_of_timestep(steps).unbind(1))
    expected = torch.tensor(list(GOLDEN.values()), dtype=dtype)
    torch.testing.assert_close(torch.stack(coefficients, 1), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("parametrization", EVERY, ids=name)
def test_true_output_gives_data_noise_and_every_other_level(parametrization, dtype):
    """Per-sample times in both directions; the authors' v-prediction knew neither batches nor ends other than 0."""
    data, noise = normal(2, 6, 2, 3, dtype=dtype)
    t = torch.tensor([0.05, 0.2, 0.26, 0.5, 0.7, 0.9], dtype=dtype)
    s = torch.tensor([0.9, 0.0, 0.52, 0.3, 1.0, 0.9], dtype=dtype)
    x, output = parametrization.add_noise(data, noise, t), parametrization.target(data, noise, t)
    close = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(parametrization.data(x, output, t), data, **close)
    torch.testing.assert_close(parametrization.noise(x, output, t), noise, **close)
    jumped = parametrization.jump(x, output, t, s)
    torch.testing.assert_close(jumped, parametrization.add_noise(data, noise, s), **close)
    for kind in KINDS:
        other = Parametrization(parametrization.schedule, kind)
        converted = parametrization.convert(output, x, t, kind)
        torch.testing.assert_close(converted, other.target(data, noise, t), **close)


@pytest.mark.parametrize("parametrization", EVERY, ids=name)
def test_jump_to_the_same_time_is_exactly_the_identity(parametrization):
    x, output = normal(2, 9, 4)
    t = torch.linspace(0.1, 0.9, 9)
    assert torch.equal(parametrization.jump(x, 1e4 * output, t, t.clone()), x)


@pytest.mark.parametrize("parametrization", EVERY, ids=name)
def test_jump_is_linear(parametrization):
    x, output, more, other = normal(4, 5, 4, dtype=torch.float64)
    t, s = torch.linspace(0.1, 0.9, 5).double(), torch.linspace(0.8, 0.2, 5).double()
    jumped = parametrization.jump(x + 2 * more, output + 2 * other, t, s)
    parts = parametrization.jump(x, output, t, s) + 2 * parametrization.jump(more, other, t, s)
    torch.testing.assert_close(jumped, parts)


def test_time_zero_is_the_data_for_steps_and_for_predictions_alike():
    """The authors' prediction at t = 0 was pure data, but the teacher's step into 0 kept noise of sigma 0.029."""
    parametrization = Parametrization(DiscreteSchedule(), "eps")
    x, output = normal(2, 3, 4)
    t, zero = torch.full((3,), 0.02), torch.zeros(3)
    assert torch.equal(parametrization.jump(x, output, t, zero), parametrization.data(x, output, t))
    assert torch.equal(parametrization.jump(x, output, zero, zero), x)


def test_flow_jumps_are_eulers_method_and_finite_at_both_ends():
    parametrization = Parametrization(RectifiedFlow(), "velocity")
    x, output = normal(2, 4, 3)
    t, s = torch.tensor([0.0, 1.0, 0.3, 0.6]), torch.tensor([1.0, 0.0, 0.7, 0.1])
    torch.testing.assert_close(parametrization.jump(x, output, t, s), x + (s - t)[:, None] * output)


def test_half_precision_is_added_up_in_float32():
    parametrization = Parametrization(DiscreteSchedule(), "eps")
    x, output = normal(2, 3, 4, dtype=torch.bfloat16)
    t, s = torch.ones(3), torch.full((3,), 0.78)
    jumped = parametrization.jump(x, output, t, s)
    assert jumped.dtype == torch.float32
    torch.testing.assert_close(jumped, parametrization.jump(x.float(), output.float(), t, s), rtol=1e-6, atol=1e-6)
    assert torch.equal(parametrization.jump(x, output, t[0], s[0]), jumped)  # scalar times, too


def test_min_snr_weights_as_diffusers_examples_have_them():
    scheduler, steps = DDIMScheduler(**SD), torch.tensor([0, 100, 300, 700, 999])
    snr = compute_snr(scheduler, steps)
    clipped, t = snr.clamp(max=5), DiscreteSchedule().time_of_timestep(steps)
    expected = {"eps": clipped / snr, "x0": clipped, "v": clipped / (snr + 1)}
    for kind, weight in expected.items():
        ours = Parametrization(DiscreteSchedule(), kind).min_snr_weight(t)
        torch.testing.assert_close(ours, weight, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ["v", "velocity"])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_min_snr_weighs_the_error_of_the_data(schedule, kind):
    """An error of the output by 1 moves the data by some d; the weight is min(SNR, gamma) d^2 for every kind."""
    t = torch.tensor([0.0, 0.1, 0.4, 0.8, 1.0], dtype=torch.float64)
    parametrization, x = Parametrization(schedule, kind), torch.zeros(5, 1, dtype=torch.float64)
    moved = parametrization.data(x, torch.ones_like(x), t)[:, 0]
    expected = schedule.log_snr(t).exp().clamp(max=5) * moved**2
    torch.testing.assert_close(parametrization.min_snr_weight(t), expected)


def test_min_snr_weight_is_finite_at_both_ends():
    for parametrization in EVERY:
        assert parametrization.min_snr_weight(torch.tensor([0.0, 1.0])).isfinite().all()


@pytest.mark.parametrize(
    ("kind", "schedule", "times", "message"),
    [
        ("x0", DiscreteSchedule(), (0.5, 0.0), '"x0" says nothing of the noise at t = 0;'),
        ("eps", RectifiedFlow(), (0.5, 1.0), '"eps" says nothing of the data at t = 1;'),
    ],
)
def test_times_at_which_an_answer_fixes_nothing_are_found(kind, schedule, times, message):
    with pytest.raises(ValueError, match=message):
        Parametrization(schedule, kind).check(times)
    Parametrization(schedule, kind).check(times[:1])
    Parametrization(schedule, "v").check(times)


def test_unknown_predictions_are_named():
    with pytest.raises(ValueError, match="prediction 'epsilon' is unknown; choose one of eps, x0, v, velocity"):
        Parametrization(DiscreteSchedule(), "epsilon")
    with pytest.raises(ValueError, match="prediction_type 'score' is unknown; choose one of epsilon"):
        parametrization_of_config({**SD, "prediction_type": "score"})
