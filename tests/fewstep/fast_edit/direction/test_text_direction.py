"""Templates counted, directions against open_clip's own normalised features, and texts that cannot be an edit."""

import pytest
import torch

from fewstep.fast_edit.direction.templates import TEMPLATE_SETS, prompt_templates
from fewstep.fast_edit.direction.text_direction import text_direction
from tests.tiny_clip import tiny_clip, word_clip


@pytest.fixture(scope="module")
def clip():
    return tiny_clip()


def test_template_sets_have_what_they_say():
    sets = {name: prompt_templates(name) for name in TEMPLATE_SETS}
    assert {name: len(found) for name, found in sets.items()} == {"imagenet": 80, "imagenet_small": 7, "plain": 1}
    assert all(template.count("{}") == 1 for found in sets.values() for template in found)
    assert len(set(sets["imagenet"])) == 80
    assert set(sets["imagenet_small"]) <= set(sets["imagenet"])
    assert "a photo of the {}." in sets["imagenet"]
    assert prompt_templates(["my {}", "{}"]) == ["my {}", "{}"]


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        ("imagnet", "templates='imagnet': choose one of imagenet, imagenet_small, plain"),
        ([], "give at least one"),
        (["a photo"], "template 'a photo': must contain one {}"),
        (["{} and {}"], "template '{} and {}'"),
    ],
    ids=["unknown", "none", "no place", "two places"],
)
def test_templates_that_cannot_be_meant_are_one_line(choice, told):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        prompt_templates(choice)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_the_direction_is_that_of_open_clips_features(clip):
    """One picture word after the other, each feature normalised before the mean."""
    templates = ["a photo of a {}", "the {}", "{}, drawn"]
    pairs = [("face", "face with glasses"), ("person", "person with glasses")]
    total = torch.zeros(8)
    for old, new in pairs:
        for template in templates:
            for text, sign in ((new, 1), (old, -1)):
                token_ids = clip.tokenizer([template.format(text)])
                total += sign * clip.model.encode_text(token_ids, normalize=True)[0].detach()
    found = text_direction(clip, [old for old, _ in pairs], [new for _, new in pairs], templates)
    torch.testing.assert_close(found, total / total.norm(), rtol=0, atol=1e-5)
    assert not found.requires_grad


def test_the_way_back_is_the_opposite_direction(clip):
    there, back = (text_direction(clip, *texts, "imagenet_small") for texts in (("dog", "bear"), ("bear", "dog")))
    torch.testing.assert_close(there, -back)
    assert there.norm().item() == pytest.approx(1, abs=1e-6)
    assert not torch.allclose(there, text_direction(clip, "dog", "bear", "plain"), atol=0.05)


@pytest.mark.parametrize(
    ("source", "target", "told"),
    [
        ("", "face", "source text ''"),
        ("face", "  ", "target text '  '"),
        (["face", ""], ["old face", "x"], "source text ''"),
        ("face", "face ", "both 'face'"),
        (["face", "dog"], ["old face", "dog"], "both 'dog'"),
        (["face", "person"], ["old face"], "2 source and 1 target texts"),
        ([], [], "0 source and 0 target"),
        ("face", "FACE", "cannot tell 'face' from 'FACE'"),
        (["dog", "bear"], ["bear", "dog"], "cannot tell 'dog' / 'bear' from"),
    ],
    ids=["no source", "no target", "one empty", "equal", "one equal", "odd", "none", "alike", "cancelled"],
)
def test_texts_that_are_no_edit_are_one_line(clip, source, target, told):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        text_direction(clip, source, target, "plain")
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_words_outside_a_closed_vocabulary_make_no_direction():
    clip = word_clip("avatar", "with", "glasses")
    assert text_direction(clip, "avatar", "avatar with glasses", "plain").shape == (6,)
    with pytest.raises(ValueError, match=r"cannot tell 'tabby' from 'zebra'.*use words that it knows"):
        text_direction(clip, "tabby", "zebra", "plain")


@pytest.mark.filterwarnings("ignore:.*tokens of a prompt")
def test_texts_that_differ_behind_the_cut_make_no_direction(clip):
    long = "a face that looks at us " * 6
    with pytest.raises(ValueError, match="within the length that it reads"):
        text_direction(clip, long, long + "with glasses", "plain")
