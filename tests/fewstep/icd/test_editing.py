"""Editing with students that are written down, and with a tiny UNet against the same loop by hand."""

import math
from functools import partial
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from fewstep.diffusion.guidance import DynamicGuidance, guidance_features
from fewstep.diffusion.predictions import Parametrization
from fewstep.diffusion.schedules import DiscreteSchedule
from fewstep.distillation.boundaries import Boundaries
from fewstep.icd.attention_control import attention_control
from fewstep.icd.editing import Editing, edit
from fewstep.icd.inversion import decode, encode
from fewstep.icd.prompt_to_prompt import PromptToPrompt
from tests.tiny_diffusion import unet
from tests.tiny_tokenizer import letter_tokenizer

SD = Parametrization(DiscreteSchedule(), "eps")
FOUR = (0, 0.26, 0.52, 0.78, 1)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def student(slope, calls=None):
    """Each place of x sees its own place of the text alone."""

    def denoiser(x, t, guidance_scale, condition):
        if calls is not None:
            calls.append((round(t[0].item(), 6), guidance_scale.tolist(), condition["text"].clone()))
        return slope * torch.tanh(x) + guidance_scale[:, None] * condition["text"]

    return denoiser


def encoded(boundaries, width=3):
    data, noise, text = normal(3, 4, width)
    return data, encode(student(0.3), SD, boundaries, data, noise, {"text": text}), {"text": text}


@pytest.mark.parametrize("start", [0.0, 0.02])
@pytest.mark.parametrize("reverse_times", [None, (0, 0.1, 0.26, 0.52, 0.6, 0.78, 1)])
def test_replay_reconstructs_exactly_what_imperfect_students_do_not(start, reverse_times):
    boundaries = Boundaries(FOUR, start, reverse_times)
    data, states, source = encoded(boundaries)
    reconstruct = partial(edit, student(0.5), SD, boundaries, data, states, source, source)
    assert (reconstruct() - data).abs().mean() > 0.05
    torch.testing.assert_close(reconstruct(replay=True), data)


def test_replay_edits_and_moves_nothing_else():
    """The data are two halves that do not see each other; only the second is told something new."""
    boundaries = Boundaries(FOUR, 0.0)
    data, states, source = encoded(boundaries, 6)
    other = torch.cat([source["text"][:, :3], source["text"][:, 3:] + 1], 1)
    replay = partial(edit, student(0.5), SD, boundaries, data, states, source, replay=True)
    edited = replay({"text": other})
    torch.testing.assert_close(edited[:, :3], data[:, :3])
    assert (edited - data)[:, 3:].abs().min() > 0.05
    late = replay(source, DynamicGuidance(3.0, 0.3))  # guidance alone, and only below 0.3, edits too
    assert (late - data).abs().min() > 1e-3
    torch.testing.assert_close(replay(source, DynamicGuidance(3.0, 0.0)), data)


def test_a_prompt_switch_asks_for_the_target_from_its_time_on():
    """The whole condition changes: the authors' code for SDXL gave the pooled states of the target throughout."""
    boundaries, calls = Boundaries(FOUR, 0.02), []
    data, states, source = encoded(boundaries)
    target, guidance = {"text": source["text"] + 1}, DynamicGuidance(8.0, 0.52)
    edited = edit(student(0.5, calls), SD, boundaries, data, states, source, target, guidance, prompt_below=0.78)
    assert [(t, scale) for t, scale, _ in calls] == [(1, [1] * 4), (0.78, [1] * 4), (0.52, [8] * 4), (0.26, [8] * 4)]
    assert [torch.equal(text, source["text"]) for _, _, text in calls] == [True, False, False, False]
    x = states[-1]
    for (high, low), condition in zip(pairwise(reversed(FOUR)), (source, target, target, target), strict=True):
        t, s = (torch.full((4,), value, dtype=torch.float64) for value in (high, low))
        x = SD.jump(x, student(0.5)(x, t, guidance(t), condition), t, s)
    torch.testing.assert_close(edited, x)
    always = edit(student(0.5), SD, boundaries, data, states, source, target, guidance)
    torch.testing.assert_close(always, decode(student(0.5), SD, boundaries, states[-1], target, guidance))
    torch.testing.assert_close(
        edit(student(0.5), SD, boundaries, data, states, source, target, prompt_below=0.0),
        decode(student(0.5), SD, boundaries, states[-1], source),
    )


@pytest.mark.parametrize("replay", [False, True])
def test_every_part_of_the_condition_is_switched_together(replay):
    """The authors' code for SDXL gave the pooled states of the target throughout."""
    boundaries, given = Boundaries(FOUR), []

    def two_parts(x, t, guidance_scale, condition):
        given.append({key: rows[-4:] for key, rows in condition.items()})
        return student(0.5)(x, t, guidance_scale, condition)

    data, states, source = encoded(boundaries)
    source = {"text": source["text"], "pooled": normal(4, 2)}
    target = {key: rows + 1 for key, rows in source.items()}
    edit(two_parts, SD, boundaries, data, states, source, target, prompt_below=0.52, replay=replay)
    for found, expected in zip(given, (source, source, target, target), strict=True):
        assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_nothing_changes_outside_the_mask_and_something_inside():
    boundaries = Boundaries(FOUR, 0.02, (0, 0.1, 0.26, 0.52, 0.78, 1))
    data, states, source = encoded(boundaries)
    mask = torch.tensor([[0.0, 1.0, 0.5]])
    blended = partial(edit, student(0.5), SD, boundaries, data, states, source, {"text": source["text"] + 1})
    edited = blended(mask=mask)
    assert torch.equal(edited[:, 0], data[:, 0])
    torch.testing.assert_close(edited[:, 1], blended()[:, 1])  # places do not see each other
    assert (edited - data)[:, 1:].abs().min() > 1e-3
    assert torch.equal(blended(mask=torch.zeros(1, 3), replay=True), data)


def test_no_graph_is_built():
    weight, boundaries = torch.ones((), requires_grad=True, dtype=torch.float64), Boundaries(FOUR)
    data, states, source = encoded(boundaries)
    edited = edit(lambda x, *_: weight * x, SD, boundaries, data, states, source, source, replay=True)
    assert not edited.requires_grad


@pytest.mark.parametrize("replay", [False, True])
def test_prompt_to_prompt_is_the_same_loop_by_hand(replay):
    """Two edits in 2 x 2 rows, at each call the sources unguided and first."""
    model = unet(time_cond_proj_dim=8).eval().requires_grad_(False)
    torch.nn.init.normal_(model.time_embedding.cond_proj.weight)

    def network(x, t, guidance_scale, condition):
        features = guidance_features(guidance_scale, 8).to(x)
        return model(x, SD.schedule.timestep(t), condition["prompt"], timestep_cond=features).sample

    generator = torch.Generator().manual_seed(0)
    data, noise = torch.randn(2, 2, 4, 8, 8, generator=generator)
    source, target = ({"prompt": torch.randn(2, 16, 16, generator=generator)} for _ in range(2))
    boundaries, guidance = Boundaries(FOUR), DynamicGuidance(4.0, 0.78)
    states = encode(network, SD, boundaries, data, noise, source)
    words = ["a red cat", "a cat on a rug"], ["a blue cat", "a dog on a rug"]
    plan = PromptToPrompt(*words, letter_tokenizer(16), 4, blend_words=[(["cat"], ["cat"]), None])
    with attention_control(model, plan) as control:
        models = network, SD, boundaries, data, states
        edited = edit(*models, source, target, guidance, control=control, replay=replay)
        x, both = states[-1].repeat(2, 1, 1, 1), {"prompt": torch.cat([source["prompt"], target["prompt"]])}
        for step, (high, low) in enumerate(pairwise(reversed(FOUR))):
            control.start(step)
            t, s = torch.full((4,), float(high)), torch.full((4,), float(low))
            scale = torch.tensor([1.0, 1, 4, 4]) if high <= 0.78 else torch.ones(4)
            x = SD.jump(x, network(x, t, scale, both), t, s)
            if replay:
                truth = data if low == 0 else states[boundaries.encode_times.index(low)]
                x = torch.cat([truth, x[2:] + truth - x[:2]])
            x = control.blend(x)
    torch.testing.assert_close(edited, x[2:])
    plain = edit(*models, source, target, guidance, replay=replay)
    assert (plain - edited).abs().max() > 1e-3


def test_words_that_differ_are_blended_and_amplified():
    """The authors' table held blend words as a printed tuple, which their script split at its spaces."""
    tokenizer = letter_tokenizer(24)
    model = SimpleNamespace(prompts=SimpleNamespace(tokenizer=tokenizer, length=24), sample_size=(8, 8))
    texts = ["a red cat", "a dog"], ["a blue fox", "a dog"]
    found = Editing(blend=True, amplify=3.0).prompt_to_prompt(model, *texts, 4)
    words = [(["red", "cat"], ["blue", "fox"]), ([], [])]
    by_hand = PromptToPrompt(*texts, tokenizer, 4, blend_words=words, equaliser=[{"blue": 3.0, "fox": 3.0}, {}])
    assert torch.equal(found.blend_tokens, by_hand.blend_tokens)
    assert torch.equal(found.factors, by_hand.factors)
    assert not Editing().prompt_to_prompt(model, *texts, 4).blend_tokens.any()
    assert found.self_max_tokens == 4 * 4
    for shape, most in (((4, 12), 2 * 6), ((5, 9), 3 * 5)):  # what a convolution of stride 2 leaves of them
        other = SimpleNamespace(prompts=model.prompts, sample_size=shape)
        assert Editing().prompt_to_prompt(other, *texts, 4).self_max_tokens == most


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "masactrl"}, "backend 'masactrl' is unknown"),
        ({"prompt_below": 1.5}, "prompt_below=1.5: must be at least 0 and at most 1"),
        ({"guided_below": -0.1}, "guided_below=-0.1: must be at least 0 and at most 1"),
        ({"cross_share": math.nan}, "cross_share=nan: must be"),
        ({"self_share": 1.2}, "self_share=1.2: must be"),
        ({"guidance_scale": math.nan}, "guidance_scale=nan: must be at least 0 and finite"),
        ({"amplify": -1.0}, "amplify=-1.0: must be at least 0 and finite"),
        ({"guide_by": "words"}, "guide_by='words': choose one of prompt, difference"),
        ({"backend": "prompt_to_prompt", "guide_by": "difference"}, "guide_by='difference' does not share attention"),
        ({"noise_scale": 0.0}, "noise_scale=0.0: must be at least 0.01 and at most 100"),
        ({"noise_scale": math.nan}, "noise_scale=nan: must be at least 0.01 and at most 100"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Editing(**options)
