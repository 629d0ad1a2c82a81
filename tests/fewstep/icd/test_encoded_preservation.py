"""A decoder that learns to return to the encoder's own states."""

from copy import deepcopy
from functools import partial
from itertools import pairwise

import pytest
import torch

from fewstep.diffusion.solvers import ddim
from fewstep.distillation.boundaries import Boundaries
from fewstep.distillation.consistency import ConsistencyDistillation
from fewstep.distillation.network_calls import SeparateNetworks
from fewstep.icd.inversion import encode
from fewstep.losses import l2
from tests.toy_students import (
    FORWARD,
    FOUR,
    KINDS,
    MEAN,
    NETWORKS,
    REVERSE,
    SD,
    STD,
    TEACHER,
    drawn,
    gaussian,
    name,
    perfect_pair,
)

ENCODED = partial(ConsistencyDistillation, distance=l2, reverse_from="encoded")


def loss(distillation, networks, draw):
    return distillation.term("reverse_preservation", networks, draw)


@pytest.mark.parametrize("boundaries", [FOUR, Boundaries((0, 0.5, 1), 0.1, (0, 0.06, 0.3, 0.5, 1))])
def test_every_segment_returns_to_where_the_encoder_was_and_the_first_to_the_data(boundaries):
    draw = drawn(ENCODED(SD, boundaries))
    states = encode(FORWARD, SD, boundaries, draw.data, draw.noise, draw.condition)
    expected = torch.zeros(64, dtype=torch.float64)
    goals = [draw.data, *states[1:-1]]
    for (low, high), state, goal in zip(pairwise(boundaries.times), states[1:], goals, strict=True):
        falling = [t for t in boundaries.decode_times if low - 1e-9 <= t <= high + 1e-9]
        back = ddim(REVERSE, SD, state, falling, draw.condition)
        expected = torch.where((draw.high - high).abs() < 1e-6, l2(back, goal), expected)
    torch.testing.assert_close(loss(ENCODED(SD, boundaries), NETWORKS, draw), expected)


@pytest.mark.parametrize("parametrization", KINDS, ids=name)
def test_perfect_students_lose_nothing(parametrization):
    boundaries = Boundaries((0, 0.3, 0.6, 1), 0.0)
    networks = SeparateNetworks(partial(gaussian, parametrization, STD), **perfect_pair(parametrization, boundaries))
    distillation = ENCODED(parametrization, boundaries, 40)
    draw = drawn(distillation)
    assert loss(distillation, networks, draw._replace(data=MEAN + STD * draw.data)).max() < 1e-18


def test_only_the_decoder_learns_and_its_goal_stands_still():
    """The gradient is that of the decoder's jump alone, from a state and to a goal that were computed beforehand."""
    distillation = ENCODED(SD, FOUR)
    draw = drawn(distillation)
    forward, reverse, again = deepcopy(FORWARD), deepcopy(REVERSE), deepcopy(REVERSE)
    loss(distillation, SeparateNetworks(TEACHER, forward, reverse), draw).sum().backward()
    assert forward.weight.grad is None
    states = encode(FORWARD, SD, FOUR, draw.data, draw.noise, draw.condition)
    goals = [draw.data, *states[1:-1]]
    for (low, high), state, goal in zip(pairwise(FOUR.times), states[1:], goals, strict=True):
        t, s = (torch.full((64,), time, dtype=torch.float64) for time in (high, low))
        back = SD.jump(state, again(state, t, torch.ones_like(t), draw.condition), t, s)
        l2(back, goal)[(draw.high - high).abs() < 1e-6].sum().backward()
    torch.testing.assert_close(reverse.weight.grad, again.weight.grad)


def test_an_unknown_choice_is_named():
    with pytest.raises(ValueError, match="reverse_from 'codes' is unknown"):
        ConsistencyDistillation(SD, FOUR, reverse_from="codes")
