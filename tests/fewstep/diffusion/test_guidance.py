"""Against the two-pass formula, the published step and ramp, golden features, and the commutation with jumps."""

import math

import pytest
import torch
from diffusers.models.embeddings import get_timestep_embedding
from torch import nn

from fewstep.diffusion.guidance import (
    ClassifierFree,
    DynamicGuidance,
    GuidanceEmbedding,
    draw_scales,
    guidance_distillation,
    guidance_features,
    guide,
    require_trained,
    unguided,
)
from fewstep.diffusion.predictions import Parametrization
from fewstep.diffusion.schedules import DiscreteSchedule


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network(x, t, condition):
    return x * t[:, None] + condition["text"] ** 2


def test_one_is_unguided_zero_is_unconditional():
    unconditional, conditional = normal(2, 3, 4)
    guided = guide(unconditional, conditional, torch.tensor([0.0, 1.0, 3.0]))
    torch.testing.assert_close(guided[0], unconditional[0])
    torch.testing.assert_close(guided[1], conditional[1])
    torch.testing.assert_close(guided[2], 3 * conditional[2] - 2 * unconditional[2])


def test_two_passes_in_one_respect_every_row():
    """Scales per sample also for two rows, where the authors' code took the first prompt for an unconditional one."""
    x, text, t = normal(2, 4), normal(2, 4, seed=1), torch.tensor([0.2, 0.9])
    null, scale = {"text": normal(1, 4, seed=2)}, torch.tensor([8.0, 2.5])
    rows = []

    def counted(x, t, condition):
        rows.append(len(x))
        return network(x, t, condition)

    guided = ClassifierFree(counted, null)(x, t, scale, {"text": text})
    conditional = network(x, t, {"text": text})
    unconditional = network(x, t, {"text": null["text"].repeat(2, 1)})
    torch.testing.assert_close(guided, unconditional + scale[:, None] * (conditional - unconditional))
    assert rows == [4]


def test_conditions_that_do_not_match_are_named():
    with pytest.raises(ValueError, match=r"condition has \['text'\], null_condition \['pooled', 'text'\]"):
        ClassifierFree(network, {"text": normal(1, 4), "pooled": normal(1, 2)})(
            normal(2, 4), torch.ones(2), torch.ones(2), {"text": normal(2, 4)}
        )


def test_guidance_commutes_with_the_kind_of_prediction():
    x, first, second = normal(3, 5, 4)
    t, scale = torch.linspace(0.1, 0.9, 5), torch.linspace(1, 9, 5)
    eps = Parametrization(DiscreteSchedule(), "eps")
    converted = [eps.convert(output, x, t, "v") for output in (first, second)]
    torch.testing.assert_close(
        eps.convert(guide(first, second, scale), x, t, "v"), guide(*converted, scale), rtol=1e-4, atol=1e-4
    )


def cads(t, low, high):
    """Sadat et al. 2024 in plain Python."""
    return 1.0 if t <= low else 0.0 if t >= high else (high - t) / (high - low)


@pytest.mark.parametrize(("low", "high"), [(0.6, 0.9), (0.0, 1.0), (0.3, 0.4)])
def test_ramp_is_cads(low, high):
    """The authors tested the lower threshold twice and never the upper."""
    t = torch.arange(1, 1000, dtype=torch.float64) / 1000 + 1e-4
    expected = torch.tensor([1 + cads(float(value), low, high) * 7 for value in t], dtype=torch.float64)
    torch.testing.assert_close(DynamicGuidance(8.0, low, high)(t), expected)


@pytest.mark.parametrize("threshold", [0.7, 0.8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_step_is_exactly_one_above_its_threshold_and_exactly_the_scale_below(threshold, dtype):
    t = (torch.arange(1000, dtype=dtype) + 1) / 1000
    w = DynamicGuidance(7.3, threshold)(t)
    first_off = round(1000 * threshold)  # t = threshold itself is guided
    assert (w[:first_off] == torch.tensor(7.3, dtype=dtype)).all()
    assert (w[first_off:] == 1).all()
    above = torch.nextafter(torch.tensor(threshold, dtype=dtype), torch.tensor(1, dtype=dtype))  # as rounding makes it
    assert DynamicGuidance(7.3, threshold)(above) == torch.tensor(7.3, dtype=dtype)


def test_thresholds_at_the_ends_are_constant_and_never():
    t = (torch.arange(1000) + 1) / 1000
    assert (DynamicGuidance(8.0)(t) == 8).all()
    assert (DynamicGuidance(8.0, 0.0)(t) == 1).all()
    assert (unguided(t) == 1).all()


def test_scales_per_sample_and_scalar_times():
    """The authors' dynamic guidance took batches of one, and no plain number for t."""
    guidance = DynamicGuidance(torch.tensor([2.0, 8.0, 4.0]), 0.7)
    assert guidance(torch.tensor([0.5, 0.7, 0.9])).tolist() == [2, 8, 1]
    assert guidance(torch.tensor(0.5)).tolist() == [2, 8, 4]
    assert DynamicGuidance(8.0, 0.7)(torch.tensor(0.5)).item() == 8


@pytest.mark.parametrize(("low", "high"), [(0.8, 0.7), (-0.1, 0.5), (0.5, 1.1), (math.nan, None)])
def test_thresholds_out_of_order_are_refused(low, high):
    with pytest.raises(ValueError, match="dynamic guidance needs 0 <= full_below <= off_above <= 1, got"):
        DynamicGuidance(8.0, low, high)


def test_drawn_scales_are_the_given_ones_equally_often():
    drawn = draw_scales([1, 8, 12, 20], torch.arange(4000) / 4000)
    values, counts = drawn.unique(return_counts=True)
    assert values.tolist() == [1, 8, 12, 20]
    assert counts.tolist() == [1000] * 4


def test_untrained_scales_are_named():
    require_trained(8.0, [1, 8, 12])
    with pytest.raises(ValueError, match=r"guidance_scale 7.5 was not trained; choose one of 1, 8, 12"):
        require_trained(7.5, [1, 8, 12])


def test_golden_features():
    features = guidance_features(torch.tensor([1.0, 8.0], dtype=torch.float64), 8)
    expected = [
        [0, 0, 0, 0, 1, 1, 1, 1],
        [0.506885, -0.970471, 0.586654, 0.644218, 0.862013, -0.241219, -0.809838, 0.764842],
    ]
    torch.testing.assert_close(features, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dim", [8, 9, 512])
def test_features_are_diffusers_timestep_embedding(dim):
    scale = torch.tensor([1.0, 4.0, 8.0, 20.0])
    expected = get_timestep_embedding(1000 * (scale - 1), dim, downscale_freq_shift=1)
    torch.testing.assert_close(guidance_features(scale, dim), expected, rtol=0, atol=5e-3)


def test_unguided_features_are_not_the_absence_of_features():
    """Leaving them out, as one of the authors' scripts did, feeds a network what it was never trained on."""
    assert guidance_features(torch.ones(1), 512).norm() == 16


def test_embedding_is_zero_until_trained_and_learns():
    embedding = GuidanceEmbedding(6, 16)
    output = embedding(torch.tensor([1.0, 8.0]))
    assert output.shape == (2, 6)
    assert not output.any()
    (output - 1).square().sum().backward()
    assert embedding.projection.weight.grad.abs().sum() > 0
    assert embedding.projection.bias is None
    with pytest.raises(ValueError, match="dim >= 4, got 2"):
        GuidanceEmbedding(6, 2)


def test_large_scales_keep_their_digits_in_half_precision():
    embedding = GuidanceEmbedding(6, 16).to(torch.bfloat16)
    nn.init.eye_(embedding.projection.weight)
    expected = guidance_features(torch.tensor([19.0]), 16)[:, :6]
    torch.testing.assert_close(embedding(torch.tensor([19.0])).float(), expected, rtol=1e-2, atol=1e-2)


def test_distillation_is_zero_for_the_teacher_and_trains_only_the_student():
    x, text, t = normal(3, 4), normal(3, 4, seed=1), torch.rand(3)
    bias = torch.zeros(4, requires_grad=True)
    teacher = ClassifierFree(lambda x, t, c: network(x, t, c) + bias, {"text": normal(1, 4, seed=2)})
    weight = torch.ones((), requires_grad=True)
    scale = torch.tensor([1.0, 4.0, 8.0])
    loss = guidance_distillation(lambda *a: weight * teacher(*a).detach(), teacher, x, t, scale, {"text": text})
    assert loss.tolist() == [0, 0, 0]
    off = guidance_distillation(lambda *a: weight + teacher(*a).detach(), teacher, x, t, scale, {"text": text})
    torch.testing.assert_close(off, torch.ones(3))
    off.sum().backward()
    assert weight.grad == 6
    assert bias.grad is None
