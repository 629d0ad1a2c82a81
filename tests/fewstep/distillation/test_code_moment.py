"""The loss that fixes the scale of codes, against its definition and against what the other losses cannot see."""

from copy import deepcopy
from functools import partial
from itertools import pairwise

import pytest
import torch

from fewstep.diffusion.predictions import Parametrization
from fewstep.diffusion.schedules import RectifiedFlow
from fewstep.distillation.boundaries import Boundaries
from fewstep.distillation.consistency import ConsistencyDistillation, Weights
from fewstep.distillation.network_calls import SeparateNetworks
from fewstep.icd.inversion import encode
from fewstep.losses import l2
from tests.toy_students import FORWARD, FOUR, NETWORKS, REVERSE, SD, TEACHER, drawn

FLOW = Parametrization(RectifiedFlow(1.0), "velocity")
MIDDLE = 0.5


def moment(networks, draw, boundaries=FOUR, parametrization=SD):
    return ConsistencyDistillation(parametrization, boundaries).term("code_moment", networks, draw)


@pytest.mark.parametrize("boundaries", [FOUR, Boundaries((0, 0.5, 1), 0.1)], ids=["four", "two"])
def test_states_of_the_encoder_are_compared_with_noised_data(boundaries):
    """The mean of |alpha x + sigma n|^2 over noise, from many draws of n, is what a state is compared with."""
    draw = drawn(ConsistencyDistillation(SD, boundaries))
    states = encode(FORWARD, SD, boundaries, draw.data, draw.noise, draw.condition)
    noise = torch.randn(20_000, 1, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = torch.zeros(64, dtype=torch.float64)
    for end, state in zip(boundaries.times[1:], states[1:], strict=True):
        alpha, sigma = SD.schedule(torch.tensor(end, dtype=torch.float64))
        wanted = (alpha * draw.data + sigma * noise).square().mean((0, 2))
        here = (state.square().mean(1) - wanted).square()
        expected = torch.where((draw.high - end).abs() < 1e-6, here, expected)
    torch.testing.assert_close(moment(NETWORKS, draw, boundaries).double(), expected, rtol=0.1, atol=0.05)


def test_only_the_last_jump_of_the_encoder_learns():
    draw = drawn(ConsistencyDistillation(SD, FOUR))
    forward, again = deepcopy(FORWARD), deepcopy(FORWARD)
    moment(SeparateNetworks(TEACHER, forward, REVERSE), draw).sum().backward()
    states = encode(FORWARD, SD, FOUR, draw.data, draw.noise, draw.condition)
    for (low, high), state in zip(pairwise(FOUR.encode_times), states[:-1], strict=True):
        t, s = (torch.full((64,), time, dtype=torch.float64) for time in (low, high))
        raised = SD.jump(state, again(state, t, torch.ones_like(t), draw.condition), t, s)
        alpha, sigma = SD.schedule(s)
        wanted = alpha**2 * draw.data.square().mean(1) + sigma**2
        (raised.square().mean(1) - wanted).square()[(draw.high - high).abs() < 1e-6].sum().backward()
    torch.testing.assert_close(forward.weight.grad, again.weight.grad, rtol=1e-4, atol=1e-6)


def scaled_pair(scale):
    """An encoder whose codes are `scale` times as large, and the decoder that undoes it, of a flow in two segments."""

    def jump_to(x, there, span):
        return (there - x) / span

    def forward(x, t, guidance_scale, condition):
        last = (t >= MIDDLE)[:, None]
        return jump_to(x, torch.where(last, scale * x, x), MIDDLE)

    def reverse(x, t, guidance_scale, condition):
        first = (t > MIDDLE)[:, None]
        return jump_to(x, torch.where(first, x / scale, x), -MIDDLE)

    return SeparateNetworks(TEACHER, forward, reverse)


@pytest.mark.parametrize("scale", [0.3, 2.0])
def test_it_sees_the_scale_of_codes_that_the_cycle_is_blind_to(scale):
    boundaries = Boundaries((0, MIDDLE, 1), 0.0)
    distillation = partial(ConsistencyDistillation, FLOW, boundaries, distance=l2, weights=Weights(full_cycle=1.0))
    draw = drawn(distillation(reverse_from="encoded"))
    for term in ("full_cycle", "reverse_preservation"):
        assert distillation(reverse_from="encoded").term(term, scaled_pair(scale), draw).max() < 1e-20, term
    last = draw.high > 0.9
    codes = encode(scaled_pair(scale).forward, FLOW, boundaries, draw.data, draw.noise, draw.condition)[-1]
    torch.testing.assert_close(codes, scale * draw.data)
    expected = (scale**2 * draw.data.square().mean(1) - 1).square()  # sigma = 1 and alpha = 0 at t = 1
    torch.testing.assert_close(
        moment(scaled_pair(scale), draw, boundaries, FLOW)[last].double(), expected[last], rtol=1e-4, atol=1e-5
    )
