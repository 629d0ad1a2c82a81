"""Against the authors' algorithm written down with integer steps, and students that solve Gaussian data exactly."""

from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler

from fewstep.diffusion.predictions import Parametrization
from fewstep.diffusion.schedules import DiscreteSchedule, RectifiedFlow
from fewstep.distillation.boundaries import Boundaries
from fewstep.distillation.consistency import ConsistencyDistillation, Weights
from fewstep.distillation.network_calls import SeparateNetworks
from fewstep.icd.inversion import decode, encode
from fewstep.losses import l2, pseudo_huber
from tests.toy_students import (
    COSINE,
    FORWARD,
    FOUR,
    KINDS,
    MEAN,
    NETWORKS,
    REVERSE,
    SD,
    STD,
    TEACHER,
    TERMS,
    drawn,
    gaussian,
    name,
    of_timesteps,
    perfect_pair,
)

ALPHA_BAR = DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012).alphas_cumprod.double()


class Authors:
    """Their train.py for one sample at a time, with plain integers; step -1 is the data, as alpha_bar = 1 there."""

    def __init__(self, lower, upper):
        self.lower, self.upper = lower, upper  # E with -1 for its 0, and F

    def level(self, step):
        alpha_bar = torch.tensor(1.0, dtype=torch.float64) if step < 0 else ALPHA_BAR[step]
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()

    def noised(self, z, n, step):
        alpha, sigma = self.level(step)
        return alpha * z + sigma * n

    def jump(self, net, x, step, end, w, text):
        alpha, sigma = self.level(step)
        eps = net.at_step(x[None], torch.tensor([step]), torch.tensor([w]), text[None])[0]
        alpha_end, sigma_end = self.level(end)
        return alpha_end * (x - sigma * eps) / alpha + sigma_end * eps

    def consistency(self, student, z, n, step, near, end, w, text):
        x = self.noised(z, n, step)
        prediction = self.jump(student, x, step, end, w, text)
        stepped = self.jump(TEACHER, x, step, near, w, text)
        goal = stepped if near == end else self.jump(student, stepped, near, end, w, text)
        return ((prediction - goal) ** 2 + 1e-6).sqrt().sub(1e-3).mean()

    def reverse_cd(self, z, n, step, w, text):
        near = step - 20
        return self.consistency(REVERSE, z, n, step, near, max(e for e in self.lower if e <= near), w, text)

    def forward_cd(self, z, n, step, text):
        near = step + 20
        return self.consistency(FORWARD, z, n, step, near, min(f for f in self.upper if f >= near), 1.0, text)

    def preservation(self, z, n, low, high, text, forward_first):
        ascend = partial(self.jump, FORWARD, step=low, end=high, w=1.0, text=text)
        descend = partial(self.jump, REVERSE, step=high, end=low, w=1.0, text=text)
        start = self.noised(z, n, low if forward_first else high)
        back = descend(x=ascend(x=start)) if forward_first else ascend(x=descend(x=start))
        return ((back - start) ** 2 + 1e-6).sqrt().sub(1e-3).mean()


def steps(times):
    return [round(1000 * t) - 1 for t in times.tolist()]


@pytest.mark.parametrize("inner", [[259, 519, 779], [339, 699]], ids=["four", "three"])
def test_all_four_losses_are_the_authors(inner):
    """With 259, 519, 779 and with 339, 699, which one of the authors' scripts ignored."""
    distillation = ConsistencyDistillation(SD, of_timesteps(inner))
    draw, theirs = drawn(distillation), Authors([-1, *inner], [*inner, 999])
    rows = list(zip(draw.data, draw.noise, draw.condition["text"], strict=True))
    close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-5)  # their table of levels is float32
    with torch.no_grad():
        where = zip(rows, steps(draw.reverse_time), draw.guidance_scale.tolist(), strict=True)
        expected = [theirs.reverse_cd(z, n, step, w, text) for (z, n, text), step, w in where]
        close(distillation.term("reverse_cd", NETWORKS, draw), torch.stack(expected))

        expected = [theirs.forward_cd(z, n, s, c) for (z, n, c), s in zip(rows, steps(draw.forward_time), strict=True)]
        close(distillation.term("forward_cd", NETWORKS, draw), torch.stack(expected))

        ends = list(zip(rows, steps(draw.low), steps(draw.high), strict=True))
        for term, first in (("forward_preservation", False), ("reverse_preservation", True)):
            expected = [theirs.preservation(z, n, low, high, c, first) for (z, n, c), low, high in ends]
            close(distillation.term(term, NETWORKS, draw), torch.stack(expected))


def test_times_are_drawn_on_the_grid_each_equally_often():
    distillation = ConsistencyDistillation(SD, FOUR)
    uniform = ((torch.arange(4900, dtype=torch.float64) + 0.5) / 4900)[:, None].expand(-1, 3)
    draw = distillation.draw(uniform, uniform, uniform, uniform[:, 0], {})
    values, counts = draw.forward_time.unique(return_counts=True)
    torch.testing.assert_close(values, torch.arange(1, 50, dtype=torch.float64) / 50)
    assert counts.tolist() == [100] * 49
    values, counts = draw.reverse_time.unique(return_counts=True)
    torch.testing.assert_close(values, torch.arange(1, 51, dtype=torch.float64) / 50)
    assert counts.tolist() == [98] * 50
    almost_one = torch.full((1, 3), 1 - 2**-24)
    last = distillation.draw(almost_one, almost_one, almost_one, almost_one[:, 0], {})
    assert (last.forward_time.item(), last.reverse_time.item()) == (pytest.approx(0.98), 1)


@pytest.mark.parametrize("parametrization", KINDS, ids=name)
def test_perfect_students_lose_nothing_but_the_teachers_error(parametrization):
    boundaries, losses = Boundaries((0, 0.3, 0.6, 1), 0.0), {}
    teacher = partial(gaussian, parametrization, STD)
    networks = SeparateNetworks(teacher, **perfect_pair(parametrization, boundaries))
    for num_steps in (40, 80):
        distillation = ConsistencyDistillation(parametrization, boundaries, num_steps, l2, Weights(full_cycle=1.0))
        draw = drawn(distillation, 4096)
        draw = draw._replace(data=MEAN + STD * draw.data)
        _, losses[num_steps] = distillation.objective(networks, draw)
    for term in ("forward_preservation", "reverse_preservation", "full_cycle"):
        assert losses[40][term].max() < 1e-18, term
    for term in ("forward_cd", "reverse_cd"):
        coarse, fine = losses[40][term].median(), losses[80][term].median()  # a step's error is O(1 / num_steps^2)
        assert 12 < coarse / fine < 20, term


@pytest.mark.parametrize("parametrization", [*KINDS, Parametrization(COSINE, "x0")], ids=name)
def test_a_single_point_is_distilled_without_error_down_to_time_zero(parametrization):
    """The authors' target at t = 0 kept noise that the prediction had not. An "x0" target there would be 0 / 0."""
    distillation = ConsistencyDistillation(parametrization, FOUR, distance=l2)
    point = partial(gaussian, parametrization, torch.zeros(3))
    draw = drawn(distillation)
    draw = draw._replace(data=MEAN.expand_as(draw.data), reverse_time=torch.linspace(1, 50, 64).round().double() / 50)
    assert 0.02 in draw.reverse_time
    for loss in distillation.objective(SeparateNetworks(point, point, point), draw)[1].values():
        assert loss.max() < 1e-12


def test_finer_decoding_cycles_through_all_of_its_jumps():
    boundaries = Boundaries((0, 0.5, 1), 0.02, (0, 0.1, 0.3, 0.5, 1))
    distillation = ConsistencyDistillation(SD, boundaries, distance=l2)
    draw = drawn(distillation)
    x = SD.add_noise(draw.data, draw.noise, draw.high)
    expected = []
    for row in range(64):
        state, text = x[row : row + 1], {"text": draw.condition["text"][row : row + 1]}
        for times in (0.5, 0.3, 0.1, 0.02), (1.0, 0.5):
            if times[0] == pytest.approx(draw.high[row].item()):
                for start, end in pairwise(times):
                    t, s = (torch.full((1,), value, dtype=torch.float64) for value in (start, end))
                    state = SD.jump(state, REVERSE(state, t, torch.ones(1), text), t, s)
                low, high = (torch.full((1,), times[i], dtype=torch.float64) for i in (-1, 0))
        expected.append(l2(SD.jump(state, FORWARD(state, low, torch.ones(1), text), low, high), x[row : row + 1]))
    torch.testing.assert_close(distillation.term("forward_preservation", NETWORKS, draw), torch.cat(expected))


def test_objective_is_the_weighted_sum_and_weights_act():
    """Four optimizer steps instead of one, as in the authors' code, make a weight of 1.5 all but void under Adam."""
    weights = Weights(1.0, 0.5, 1.5, 2.0, 0.25, 0.75)
    distillation = ConsistencyDistillation(SD, FOUR, weights=weights)
    draw = drawn(distillation)
    total, terms = distillation.objective(NETWORKS, draw)
    assert total.shape == (64,)
    torch.testing.assert_close(total, sum(getattr(weights, term) * loss for term, loss in terms.items()))
    assert list(terms) == TERMS
    for term, loss in terms.items():
        torch.testing.assert_close(distillation.term(term, NETWORKS, draw), loss)


def test_a_student_may_predict_something_else_than_its_teacher():
    v = Parametrization(DiscreteSchedule(), "v")

    def as_v(x, t, guidance_scale, condition):
        return SD.convert(FORWARD(x, t, guidance_scale, condition), x, t, "v")

    same = ConsistencyDistillation(SD, FOUR)
    mixed = ConsistencyDistillation(v, FOUR, teacher_parametrization=SD)
    draw = drawn(same)
    for term in TERMS[:2]:
        found = mixed.term(term, SeparateNetworks(TEACHER, as_v, as_v), draw)
        torch.testing.assert_close(found, same.term(term, SeparateNetworks(TEACHER, FORWARD, FORWARD), draw))


def test_a_sample_does_not_see_its_batch():
    distillation = ConsistencyDistillation(
        SD, FOUR, distance=pseudo_huber, weights=Weights(full_cycle=1.0, code_moment=1.0)
    )
    draw = drawn(distillation)
    together, _ = distillation.objective(NETWORKS, draw)
    part = [value[8:12] for value in draw[:-1]]
    alone, _ = distillation.objective(NETWORKS, type(draw)(*part, {"text": draw.condition["text"][8:12]}))
    torch.testing.assert_close(alone, together[8:12])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConsistencyDistillation(SD, of_timesteps([249, 499, 699])), "0.25 is not on the grid"),
        (lambda: ConsistencyDistillation(Parametrization(RectifiedFlow(), "eps"), FOUR), "of the data at t = 1"),
        (
            lambda: ConsistencyDistillation(Parametrization(DiscreteSchedule(), "x0"), Boundaries(FOUR.times, 0.0)),
            "of the noise at t = 0",
        ),
        (
            lambda: ConsistencyDistillation(SD, FOUR).term("cycle", None, None),
            "loss term 'cycle' is unknown; choose one of forward_cd",
        ),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_full_cycle_compares_with_the_clean_data():
    """Not with the noised start, which is what the authors' reconstruction error did: 0.018 at best."""
    distillation = ConsistencyDistillation(SD, FOUR, distance=l2)
    point = partial(gaussian, SD, torch.zeros(3))
    draw = drawn(distillation)
    draw = draw._replace(data=MEAN.expand_as(draw.data))
    assert distillation.term("full_cycle", SeparateNetworks(point, point, point), draw).max() < 1e-20


def test_the_full_cycle_is_encoding_and_decoding_by_a_distance_of_its_own():
    distillation = ConsistencyDistillation(SD, FOUR, distance=pseudo_huber, cycle_distance=l2)
    draw = drawn(distillation)
    models = SD, FOUR
    code = encode(FORWARD, *models, draw.data, draw.noise, draw.condition)[-1]
    expected = l2(decode(REVERSE, *models, code, draw.condition), draw.data)
    torch.testing.assert_close(distillation.term("full_cycle", NETWORKS, draw), expected)
    plain = replace(distillation, cycle_distance=None).term("full_cycle", NETWORKS, draw)
    assert (plain - expected).abs().min() > 1e-3
