"""Pictures of a batch do not know of one another, and no call of the network computes what is thrown away."""

from dataclasses import replace

import pytest
import torch

from fewstep.icd.pair import Editing, InvertibleConsistency
from fewstep.rng import PerSampleRng
from tests.tiny_export import BOUNDARIES, write_export

PROMPTS = ["a red square", "a blue cube"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return InvertibleConsistency.load(write_export(tmp_path_factory.mktemp("icd")))


def rng(*keys):
    return PerSampleRng(0, list(keys))


def counted(pair, calls):
    """The pair, whose decoder notes (time, scales, rows)."""

    def reverse(x, t, guidance_scale, condition):
        calls.append((round(t[0].item(), 6), guidance_scale.tolist(), len(x)))
        return pair.reverse(x, t, guidance_scale, condition)

    return replace(pair, reverse=reverse)


def test_a_pair_is_read_in_half_precision(pair, tmp_path):
    """Its base is the same in another dtype, not another base."""
    half = InvertibleConsistency.load(write_export(tmp_path), dtype=torch.bfloat16)
    assert next(half.model.network.parameters()).dtype == torch.bfloat16
    drawn, expected = (one.generate(PROMPTS, rng("a", "b"), 4.0) for one in (half, pair))
    assert (drawn - expected).abs().mean() < 0.02 < expected.std()


def test_two_prompts_are_drawn_as_each_alone(pair):
    """The authors' sampler took a batch of two for a source and its target and did not guide the first."""
    together = pair.generate(PROMPTS, rng("a", "b"), 12.0, 0.8)
    alone = [pair.generate([prompt], rng(key), 12.0, 0.8) for prompt, key in zip(PROMPTS, "ab", strict=True)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)
    assert (together[:1] - pair.generate(PROMPTS[:1], rng("a"), 1.0)).abs().max() > 1e-3


def test_every_picture_has_noise_of_its_own(pair):
    """The authors drew one latent for the whole batch."""
    same_prompt = pair.generate(PROMPTS[:1] * 2, rng("a", "b"), 1.0)
    assert (same_prompt[0] - same_prompt[1]).abs().max() > 1e-3
    torch.testing.assert_close(*pair.generate(PROMPTS[:1] * 2, rng("a", "a"), 1.0))


def test_a_picture_costs_one_row_of_each_call(pair):
    """The authors computed an unconditional half as well; prompt-to-prompt alone needs a second row, the source's."""
    calls, image = [], torch.zeros(2, 3, 16, 16)
    spied, steps = counted(pair, calls), [1.0, 0.78, 0.52, 0.26]
    spied.generate(PROMPTS, rng("a", "b"), 4.0, 0.8)
    assert calls == [(1.0, [1, 1], 2), *((t, [4, 4], 2) for t in steps[1:])]
    calls.clear()
    spied.edit(image, PROMPTS, PROMPTS[::-1], rng("a", "b"), Editing(guidance_scale=4.0))
    assert [rows for *_, rows in calls] == [2] * 4
    calls.clear()
    spied.edit(image, PROMPTS, PROMPTS[::-1], rng("a", "b"), Editing("prompt_to_prompt", guidance_scale=4.0))
    assert [(scales[:2], rows) for _, scales, rows in calls] == [([1, 1], 4)] * 4


@pytest.mark.parametrize("backend", ["prompt_switch", "prompt_to_prompt"])
def test_every_picture_may_have_a_scale_of_its_own(pair, backend):
    """One call of each step for all of them, and each as if it were alone."""
    calls, scales, image = [], [12.0, 1.0, 4.0], torch.linspace(-1, 1, 768).reshape(1, 3, 16, 16)
    images, words = image.expand(3, -1, -1, -1), ([PROMPTS[0]] * 3, [PROMPTS[1]] * 3)
    editing = Editing(backend, guidance_scale=4.0)
    together = counted(pair, calls).edit(images, *words, rng(*"aaa"), editing, None, scales)
    assert [used[-3:] for _, used, _ in calls] == [[1, 1, 1], *[scales] * 3]  # guided below 0.8
    for row, scale in enumerate(scales):
        alone = pair.edit(image, PROMPTS[:1], PROMPTS[1:], rng("a"), Editing(backend, guidance_scale=scale))
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-4, rtol=1e-4)
    assert (together[0] - together[1]).abs().max() > 1e-3
    with pytest.raises(ValueError, match="guidance_scale 5 was not trained"):
        pair.edit(images, *words, rng(*"aaa"), editing, None, [1.0, 4.0, 5.0])
    with pytest.raises(ValueError, match="2 guidance scales for 3 pictures"):
        pair.edit(images, *words, rng(*"aaa"), editing, None, [1.0, 4.0])


def test_both_students_are_adapters_on_the_one_network_of_the_pair(pair):
    """The authors' were fused into networks of their own, three in memory."""
    calls = []
    handle = pair.model.network.register_forward_pre_hook(lambda network, inputs: calls.append(network))
    code = pair.encode(torch.zeros(2, 3, 16, 16), PROMPTS, rng("a", "b"))[-1]
    pair.decode(code, PROMPTS)
    handle.remove()
    assert len(calls) == len(BOUNDARIES.encode_times) + len(BOUNDARIES.decode_times) - 2


def test_the_schedule_outlives_its_use(pair):
    """The authors' sampler turned its caller's list around: the second sampler decoded upwards."""
    before = (BOUNDARIES.encode_times, BOUNDARIES.decode_times)
    first, second = (pair.generate(PROMPTS, rng("a", "b"), 4.0) for _ in range(2))
    assert torch.equal(first, second)
    assert (BOUNDARIES.encode_times, BOUNDARIES.decode_times) == before
