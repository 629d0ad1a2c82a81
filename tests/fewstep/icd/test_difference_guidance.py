"""Guidance by what sets the target apart from the source, against the three answers by hand."""

from functools import partial
from itertools import pairwise

import pytest
import torch

from fewstep.diffusion.guidance import DynamicGuidance
from fewstep.distillation.boundaries import Boundaries
from fewstep.icd.editing import edit
from fewstep.icd.inversion import decode, encode
from tests.toy_students import FOUR, REVERSE, SD, normal

FINE = Boundaries((0, 0.26, 0.52, 0.78, 1), 0.02, (0, 0.1, 0.26, 0.52, 0.78, 1))

NO_GUIDANCE, EACH = 1.0, torch.tensor([1.0, 2.0, 8.0, 20.0])


def encoded(boundaries):
    data, noise, text = normal(3, 4, 3)
    return data, encode(REVERSE, SD, boundaries, data, noise, {"text": text}), {"text": text}


@pytest.mark.parametrize("boundaries", [FOUR, FINE], ids=["four", "fine"])
@pytest.mark.parametrize("below", [0.0, 0.8, 1.0])
@pytest.mark.parametrize("scale", [NO_GUIDANCE, 8.0, EACH], ids=["one", "eight", "each"])
def test_the_source_for_a_target_is_reconstructed_as_without_guidance(boundaries, below, scale):
    data, states, source = encoded(boundaries)
    guided = partial(edit, REVERSE, SD, boundaries, data, states, source, source, DynamicGuidance(scale, below))
    unguided = decode(REVERSE, SD, boundaries, states[-1], source)
    torch.testing.assert_close(guided(difference=True), unguided, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(guided(difference=True, replay=True), data, rtol=1e-12, atol=1e-12)
    moved = (guided() - unguided).abs().max() > 1e-3
    assert moved == (below > 0 and scale is not NO_GUIDANCE)  # guidance by the prompt moves the same picture


def test_it_is_the_loop_by_hand():
    data, states, source = encoded(FOUR)
    target, guidance = {"text": source["text"] + 1}, DynamicGuidance(8.0, 0.78)
    x = states[-1]
    for high, low in pairwise(FOUR.decode_times):
        t, s, one = (torch.full((4,), value, dtype=torch.float64) for value in (high, low, 1.0))
        new = target if high <= 0.52 else source  # the prompt is switched later than guidance
        told = REVERSE(x, t, one, source) + REVERSE(x, t, guidance(t), new) - REVERSE(x, t, guidance(t), source)
        x = SD.jump(x, told, t, s)
    edited = edit(REVERSE, SD, FOUR, data, states, source, target, guidance, prompt_below=0.52, difference=True)
    torch.testing.assert_close(edited, x)
    plain = edit(REVERSE, SD, FOUR, data, states, source, target, guidance, prompt_below=0.52)
    assert (plain - edited).abs().max() > 1e-3


def test_without_guidance_it_is_the_plain_edit():
    """eps(x, 1, source) cancels."""
    data, states, source = encoded(FOUR)
    edits = partial(edit, REVERSE, SD, FOUR, data, states, source, {"text": source["text"] + 1})
    torch.testing.assert_close(edits(difference=True), edits())
    torch.testing.assert_close(edits(difference=True, replay=True), edits(replay=True))


def test_the_last_row_is_the_edited_one_and_a_step_is_one_call():
    data, states, source = encoded(FOUR)
    target, calls = {"text": source["text"] + 1}, []

    def counted(x, t, guidance_scale, condition):
        calls.append((guidance_scale.tolist(), condition["text"]))
        return REVERSE(x, t, guidance_scale, condition)

    edit(counted, SD, FOUR, data, states, source, target, DynamicGuidance(8.0), replay=True, difference=True)
    for scales, text in calls:
        assert scales == [1] * 8 + [8] * 8
        assert torch.equal(text, torch.cat([source["text"]] * 3 + [target["text"]]))
    assert len(calls) == 4


def test_attention_is_not_shared():
    data, states, source = encoded(FOUR)
    with pytest.raises(ValueError, match="difference does not share attention"):
        edit(REVERSE, SD, FOUR, data, states, source, source, control=object(), difference=True)
