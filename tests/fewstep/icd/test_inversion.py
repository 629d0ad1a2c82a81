"""With students that solve Gaussian data exactly, and by what each call of a student was given."""

from functools import partial

import pytest
import torch

from fewstep.diffusion.guidance import DynamicGuidance
from fewstep.diffusion.predictions import Parametrization
from fewstep.diffusion.schedules import DiscreteSchedule, RectifiedFlow
from fewstep.distillation.boundaries import Boundaries
from fewstep.icd.inversion import decode, encode

MEAN, STD = torch.tensor([1.5, -0.5, 0.2], dtype=torch.float64), torch.tensor([0.3, 1.0, 2.0], dtype=torch.float64)
CASES = [
    Parametrization(DiscreteSchedule(), "eps"),
    Parametrization(DiscreteSchedule(), "v"),
    Parametrization(RectifiedFlow(3), "velocity"),
]
FOUR = (0, 0.26, 0.52, 0.78, 1)


def name(value):
    return f"{type(value.schedule).__name__}-{value.prediction}" if isinstance(value, Parametrization) else None


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def perfect(parametrization, segment_end, x, t, guidance_scale, condition):
    """The answer whose jump to the end of t's segment is the exact probability flow of data N(MEAN, STD^2)."""
    end = segment_end(t)
    (alpha, sigma), (alpha_end, sigma_end) = (
        [level[:, None] for level in parametrization.schedule(time)] for time in (t, end)
    )
    spread = ((alpha_end * STD) ** 2 + sigma_end**2) / ((alpha * STD) ** 2 + sigma**2)
    there = alpha_end * MEAN + spread.sqrt() * (x - alpha * MEAN)
    skip, out = (c[:, None] for c in parametrization.coefficients(t, end))
    return (there - skip * x) / out


def perfect_pair(parametrization, boundaries):
    return [partial(perfect, parametrization, end) for end in (boundaries.forward_end, boundaries.reverse_end)]


@pytest.mark.parametrize("parametrization", CASES, ids=name)
@pytest.mark.parametrize(
    "boundaries", [Boundaries(FOUR, 0.0), Boundaries((0, 0.34, 0.7, 1), 0, (0, 0.1, 0.34, 0.7, 1))]
)
def test_perfect_students_invert_each_other_and_land_on_the_noise_of_the_exact_flow(parametrization, boundaries):
    forward, reverse = perfect_pair(parametrization, boundaries)
    data = MEAN + STD * normal(50, 3)
    states = encode(forward, parametrization, boundaries, data, normal(50, 3, seed=1), {})
    assert len(states) == len(boundaries.times)
    assert torch.equal(states[0], data)  # the noise does not matter where start is 0
    alpha, sigma = parametrization.schedule(torch.tensor(1.0, dtype=torch.float64))
    expected = alpha * MEAN + (alpha**2 * STD**2 + sigma**2).sqrt() * (data - MEAN) / STD
    torch.testing.assert_close(states[-1], expected)
    torch.testing.assert_close(decode(reverse, parametrization, boundaries, states[-1], {}), data)
    code = normal(50, 3, seed=2)
    back = encode(
        forward, parametrization, boundaries, decode(reverse, parametrization, boundaries, code, {}), code, {}
    )
    torch.testing.assert_close(back[-1], code)


def recorded(calls):
    def student(x, t, guidance_scale, condition):
        assert t.unique().numel() == 1
        calls.append((t[0].item(), guidance_scale.tolist(), condition))
        return 0.1 * x

    return student


def test_each_student_is_asked_at_its_own_boundaries_only():
    """The authors' SDXL encoder fell back on the decoder's times, and nothing tied its start to the noise added."""
    boundaries = Boundaries((0, 0.5, 1), 0.02, (0, 0.3, 0.5, 1))
    forward_calls, reverse_calls, condition = [], [], {"text": torch.ones(2, 4)}
    data, noise = normal(2, 2, 3)
    states = encode(recorded(forward_calls), CASES[0], boundaries, data, noise, condition)
    torch.testing.assert_close(states[0], CASES[0].add_noise(data, noise, torch.full((2,), 0.02).double()))
    guidance = DynamicGuidance(torch.tensor([8.0, 4.0], dtype=torch.float64), 0.5)
    decode(recorded(reverse_calls), CASES[0], boundaries, states[-1], condition, guidance)
    assert forward_calls == [(0.02, [1, 1], condition), (0.5, [1, 1], condition)]
    assert reverse_calls == [(1.0, [1, 1], condition), (0.5, [8, 4], condition), (0.3, [8, 4], condition)]


def test_encoding_and_decoding_build_no_graph():
    weight = torch.ones((), requires_grad=True, dtype=torch.float64)

    def student(x, t, guidance_scale, condition):
        return weight * x

    states = encode(student, CASES[0], Boundaries(FOUR, 0.0), normal(2, 3), normal(2, 3), {})
    assert not any(state.requires_grad for state in states)
    assert not decode(student, CASES[0], Boundaries(FOUR, 0.0), states[-1], {}).requires_grad
