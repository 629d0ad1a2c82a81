"""Whom each loss trains, in how many calls, and that nothing waits for the device."""

from copy import deepcopy
from dataclasses import asdict

import pytest
import torch

from fewstep.diffusion.guidance import ClassifierFree, DynamicGuidance, draw_scales, guidance_features
from fewstep.diffusion.predictions import Parametrization
from fewstep.distillation.boundaries import Boundaries
from fewstep.distillation.consistency import ConsistencyDistillation, Weights
from fewstep.distillation.network_calls import SeparateNetworks
from fewstep.icd.inversion import decode
from tests.toy_students import (
    COSINE,
    FORWARD,
    FOUR,
    KINDS,
    NETWORKS,
    REVERSE,
    SD,
    TEACHER,
    TERMS,
    drawn,
    name,
)


def gradients(loss, nets=(TEACHER, FORWARD, REVERSE)):
    """The gradients of the three weights, None where there is none."""
    nets = [deepcopy(net) for net in nets]
    loss(SeparateNetworks(*nets)).sum().backward()
    return [net.weight.grad for net in nets]


@pytest.mark.parametrize(
    ("term", "trained"),
    list(zip(TERMS, [(1, 0), (0, 1), (1, 0), (0, 1), (1, 1), (1, 0)], strict=True)),
)
def test_each_loss_trains_one_student(term, trained):
    distillation = ConsistencyDistillation(SD, FOUR)
    draw = drawn(distillation)
    found = gradients(lambda networks: distillation.term(term, networks, draw))
    assert [gradient is not None and bool(gradient.any()) for gradient in found] == [False, *map(bool, trained)]


def test_targets_carry_no_gradient():
    """The gradient is that of a student that is pulled to a goal of a copy of itself."""
    distillation = ConsistencyDistillation(SD, FOUR)
    draw = drawn(distillation)

    class Detached(SeparateNetworks):
        def __call__(self, calls):
            others = SeparateNetworks(TEACHER, deepcopy(FORWARD), deepcopy(REVERSE))
            answers = zip(calls, super().__call__(calls), others(calls), strict=True)
            return [own if call.gradient else other.detach() for call, own, other in answers]

    for place, term in ((1, "forward_cd"), (2, "reverse_cd"), (1, "forward_preservation"), (2, "reverse_preservation")):
        nets = [TEACHER, FORWARD, REVERSE]
        nets[place] = student = deepcopy(nets[place])
        distillation.term(term, Detached(*nets), draw).sum().backward()
        own = gradients(lambda networks, term=term: distillation.term(term, networks, draw))
        assert torch.equal(student.weight.grad, own[place])


class Recorded:
    """NETWORKS that keep every group of calls that were made together."""

    def __init__(self):
        self.rounds = []

    def __call__(self, calls):
        self.rounds.append(list(calls))
        return NETWORKS(calls)


def test_the_four_losses_take_three_rounds_and_only_the_last_is_differentiated():
    """The authors' iteration makes ten calls, one after the other."""
    distillation = ConsistencyDistillation(SD, FOUR)
    networks = Recorded()
    distillation.objective(networks, drawn(distillation))
    asked = [[call.network for call in calls] for calls in networks.rounds]
    assert asked == [
        ["teacher", "teacher", "reverse", "forward"],
        ["forward", "reverse"],
        ["forward", "reverse", "forward", "reverse"],
    ]
    assert [{call.gradient for call in calls} for calls in networks.rounds] == [{False}, {False}, {True}]
    assert [call.x.requires_grad for calls in networks.rounds for call in calls] == [False] * 10


def test_side_by_side_has_the_gradients_of_one_by_one():
    distillation = ConsistencyDistillation(SD, FOUR, weights=Weights(full_cycle=0.5, code_moment=0.3))
    draw = drawn(distillation)
    together = gradients(lambda networks: distillation.objective(networks, draw)[0])
    weights = asdict(distillation.weights)
    singly = [gradients(lambda n, term=term: weights[term] * distillation.term(term, n, draw)) for term in TERMS]
    for number in (1, 2):
        parts = [found[number] for found in singly if found[number] is not None]
        torch.testing.assert_close(together[number], sum(parts))


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (Weights(0, 0, 0, 1), {"reverse_preservation"}),
        (Weights(0, 0, 1, 0), {"forward_preservation"}),
        (Weights(1, 1, 0, 0), {"forward_cd", "reverse_cd"}),
    ],
)
def test_each_term_has_its_own_switch(weights, expected):
    """The authors' reverse preservation was switched by the weight of the forward one, and ran at weight 0."""
    distillation = ConsistencyDistillation(SD, FOUR, weights=weights)
    networks = Recorded()
    _, terms = distillation.objective(networks, drawn(distillation))
    assert set(terms) == expected
    asked = [call.network for calls in networks.rounds for call in calls]
    assert asked.count("teacher") == sum(term.endswith("cd") for term in expected)
    assert len(asked) == sum(3 if term.endswith("cd") else 2 for term in expected)


def test_only_the_decoders_consistency_is_guided():
    distillation = ConsistencyDistillation(SD, FOUR)
    draw = drawn(distillation)
    for term in TERMS:
        networks = Recorded()
        distillation.term(term, networks, draw)
        expected = draw.guidance_scale if term == "reverse_cd" else torch.ones(64)
        assert all(torch.equal(call.guidance_scale.float(), expected) for (call,) in networks.rounds), term


@pytest.mark.parametrize("parametrization", [*KINDS, Parametrization(COSINE, "v")], ids=name)
def test_nothing_waits_for_a_value_from_the_device(parametrization):
    """Tensors of the meta device have no values: reading one, as .item() does, raises."""
    boundaries = Boundaries((0, 0.26, 0.52, 1), 0.02, (0, 0.1, 0.26, 0.52, 1))
    distillation = ConsistencyDistillation(
        parametrization, boundaries, weights=Weights(full_cycle=1.0, code_moment=1.0)
    )
    image, uniform = torch.empty(8, 4, 6, 6, device="meta"), torch.empty(8, 3, device="meta")
    scale = draw_scales([1, 8, 12], uniform[:, 0])

    def net(x, t, guidance_scale, condition):
        features = guidance_features(guidance_scale, 16) + parametrization.schedule.timestep(t)[:, None]
        return x * features.mean(1)[:, None, None, None]

    teacher = ClassifierFree(lambda x, t, c: x * t[:, None, None, None] + c["image"], {"image": image[:1]})
    draw = distillation.draw(image, image, uniform, scale, {"image": image})
    total, _ = distillation.objective(SeparateNetworks(teacher, net, net), draw)
    assert total.shape == (8,)
    for guidance in (DynamicGuidance(8.0, 0.7), DynamicGuidance(scale, 0.5, 0.7)):
        edited = decode(net, parametrization, boundaries, image, {}, guidance)
        assert (edited.device.type, edited.shape, edited.dtype) == ("meta", image.shape, torch.float32)
