"""One time, one noise: bases of other schedules against closed forms, and against a linear base that edits the same."""

import math
from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler

from fewstep.diffusion.predictions import Parametrization
from fewstep.diffusion.schedules import DiscreteSchedule, RectifiedFlow
from fewstep.fast_edit.application import Application, apply_edit, project
from fewstep.fast_edit.encoding import Encoder, Encoding
from fewstep.fast_edit.estimates import GradientMode, estimates, pass_rng
from fewstep.fast_edit.schedule_times import base_times
from fewstep.fast_edit.tuned import TunedCopies
from fewstep.rng import PerSampleRng
from tests.tiny_edit_base import Calls, base, cosine_posterior_base, pictures, posterior_base

TIMES = (0.001, 0.02, 0.06, 0.3, 0.35, 0.482, 0.7)


def alphas_bar(name, start, end):
    return DDIMScheduler(beta_schedule=name, beta_start=start, beta_end=end).alphas_cumprod.double()


LINEAR = alphas_bar("linear", 1e-4, 0.02)


def on(schedule):
    return replace(base(), parametrization=Parametrization(schedule, "v"))


def level(t):
    return float(LINEAR[round(t * 1000) - 1])


def test_on_the_linear_schedule_a_time_is_itself():
    trained = [step / 1000 for step in range(1001)]
    assert list(base_times(base(), trained)) == trained
    assert base_times(base(), (0.2916, 0.2914, 1e-9)) == (0.292, 0.291, 0.001)


@pytest.mark.parametrize("t", TIMES)
def test_on_the_cosine_schedule_a_time_is_the_nearest_of_nichol_and_dhariwal(t):
    """Their equation 17, solved for t."""
    start = math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    exact = math.acos(math.sqrt(level(t) * start)) * 2 / math.pi * 1.008 - 0.008
    (found,) = base_times(on(DiscreteSchedule("squaredcos_cap_v2")), (t,))
    assert abs(found - exact) < 0.5e-3 + 1e-5
    assert found * 1000 == pytest.approx(round(found * 1000))


@pytest.mark.parametrize("t", TIMES[1:])
def test_on_stable_diffusions_schedule_a_time_lies_at_its_noise(t):
    table = alphas_bar("scaled_linear", 0.00085, 0.012)
    (found,) = base_times(on(DiscreteSchedule()), (t,))
    place = round(found * 1000) - 1
    assert table[place + 1] <= level(t) <= (table[place - 1] if place else 1)


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_on_a_rectified_flow_a_time_has_the_same_noise_to_signal(t, shift):
    ratio = math.sqrt((1 - level(t)) / level(t))
    (found,) = base_times(on(RectifiedFlow(shift)), (t,))
    u = shift * found / (1 + (shift - 1) * found)
    assert u / (1 - u) == pytest.approx(ratio, rel=1e-4)


def test_the_ends_and_what_no_schedule_has():
    for schedule in (DiscreteSchedule(), DiscreteSchedule("squaredcos_cap_v2"), RectifiedFlow()):
        assert base_times(on(schedule), (0.0,)) == (0.0,)
        assert base_times(on(schedule), (1e-6,))[0] > 0
    assert base_times(on(DiscreteSchedule()), (1e-6, 0.9, 1.0)) == (0.001, 1.0, 1.0)
    with pytest.raises(ValueError, match=r"times=1\.2: must be at least 0 and at most 1"):
        base_times(base(), (0.3, 1.2))


def edited(tuned, how):
    tuned.networks["edit"].mean = 0.8
    with torch.no_grad():
        return apply_edit(tuned, pictures(), "edit", PerSampleRng(0, ["a", "b"]), how)


def estimated(tuned, mode, encoding):
    tuned.networks["edit"].mean = 0.8
    encoder, how = Encoder(tuned.base, encoding), GradientMode(mode, 3)
    return torch.stack(
        [made for made, _ in estimates(tuned, "edit", pictures(), encoder, pass_rng(0, ["a", "b"], 0), how)]
    )


WALK = Encoding(0.4, "ddim", 12)
ANSWERS = {
    "stochastic": lambda base: Encoder(base, Encoding(0.4))(pictures(), PerSampleRng(0, ["a", "b"])),
    "ddim": lambda base: Encoder(base, WALK)(pictures()),
    "projected": lambda base: project(base, pictures(), PerSampleRng(0, ["a", "b"]), 0.1, 4),
    "plain": lambda base: edited(TunedCopies(base), Application(Encoding(0.4), residual=False, projection=0)),
    "split": lambda base: edited(TunedCopies(base), Application(WALK, split=0.2, projection=0.06)),
    **{mode: lambda base, mode=mode: estimated(TunedCopies(base), mode, Encoding(0.4)) for mode in ("one_step", "eff")},
    **{
        mode: lambda base, mode=mode: estimated(TunedCopies(base), mode, Encoding(0.4)) for mode in ("full", "random_t")
    },
}


@pytest.mark.parametrize("name", ANSWERS)
def test_a_base_of_cosine_and_v_answers_as_one_of_linear_and_noise(name):
    """Both know the exact answer for the same data, so that only their times differ, by half a step at most."""
    linear, cosine = (ANSWERS[name](each).detach() for each in (posterior_base(), cosine_posterior_base()))
    torch.testing.assert_close(cosine, linear, rtol=0, atol=0.02)


def test_the_config_of_glasses_is_asked_at_08_of_the_cosine_schedule():
    assert base_times(cosine_posterior_base(), (0.482,)) == (0.8,)


@pytest.mark.parametrize("make", [posterior_base, cosine_posterior_base])
def test_random_times_are_trained_ones_and_never_above_t0(make):
    """A t0 between two trained times, just below the middle: rounding each drawn time alone would exceed it."""
    tuned, encoding = TunedCopies(make()), Encoding(0.3004)
    calls, encoder, seen = Calls(tuned.networks["edit"]), Encoder(tuned.base, encoding), []
    how = GradientMode("random_t", t_lo=0.2995)
    for number in range(20):
        ((_, t),) = estimates(tuned, "edit", pictures(), encoder, pass_rng(0, ["a", "b"], number), how)
        seen += t.tolist()
        assert calls.timesteps[-1] == [round(time * 1000) - 1 for time in t.tolist()]
    assert max(seen) == pytest.approx(encoder.times[-1])
    assert all(time * 1000 == pytest.approx(round(time * 1000), abs=1e-3) for time in seen)
