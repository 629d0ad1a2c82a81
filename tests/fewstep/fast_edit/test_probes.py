"""Probabilities of what an edit shall bring, against the formulas and known readers."""

import pytest
import torch
from torch.nn import functional as F

from fewstep.fast_edit.direction.clips import EnlargingCLIP, edit_loss, load_edit_clip
from fewstep.fast_edit.direction.views import Views
from fewstep.fast_edit.edit_texts import edit_texts
from fewstep.fast_edit.probe_options import ProbeOptions
from fewstep.fast_edit.probes import AttributeProbe, TextProbe, ViewedProbe
from fewstep.rewards.attribute_reader import AttributeReader
from tests.tiny_clip import tiny_clip
from tests.tiny_edit_base import pictures

VALUES = {"glasses": ["none", "round", "dark"], "hat": ["none", "red"]}


@pytest.fixture(scope="module")
def clip():
    return tiny_clip()


def test_a_reader_is_asked_for_all_attributes_at_once():
    reader = AttributeReader(VALUES, "convnext_atto", {"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8]}, 32)
    images = pictures(4, 32, 32)
    glasses, hat = (reader.eval()(images)[name].exp() for name in VALUES)
    torch.testing.assert_close(AttributeProbe(reader, {"glasses": "dark"})(images), glasses[:, 2])
    torch.testing.assert_close(
        AttributeProbe(reader, {"glasses": "round", "hat": "red"})(images), glasses[:, 1] * hat[:, 1]
    )
    with pytest.raises(ValueError, match="attribute glasses='square': known values are none, round, dark"):
        AttributeProbe(reader, {"glasses": "square"})(images)
    with pytest.raises(ValueError, match="needs what it looks for"):
        AttributeProbe(reader, {})


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "a probe needs its reader or its clip, one of them"),
        ({"reader": "R", "clip": "C", "wanted": {"hat": "red"}}, "one of them"),
        ({"reader": "R"}, "probe.wanted is what probe.reader shall find"),
        ({"clip": "C", "wanted": {"hat": "red"}}, "give both or none"),
        ({"clip": "C", "threshold": 1.5}, "probe.threshold=1.5"),
    ],
    ids=["nobody", "both", "unasked", "not asked", "threshold"],
)
def test_a_probe_that_cannot_look_is_one_line(options, told):
    with pytest.raises(ValueError, match=told) as caught:
        ProbeOptions(**options)
    assert "\n" not in str(caught.value)


def test_a_probe_is_told_at_once_what_its_reader_does_not_know(tmp_path):
    reader = AttributeReader(VALUES, "convnext_atto", {"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8]}, 32)
    reader.save_pretrained(tmp_path)
    texts = edit_texts("edit", "face", "face with glasses", "plain")
    for wanted, told in (({"hatt": "red"}, "'hatt' is none of those"), ({"hat": "blue"}, "known values are none, red")):
        with pytest.raises(ValueError, match=told):
            ProbeOptions(str(tmp_path), wanted).of(texts)


def test_texts_are_compared_by_the_softmax_of_clip(clip):
    images, texts = pictures(3, 16, 16), ["a photo of a cat", "a photo of a dog"]
    cosines = clip.embed_images(images) @ clip.embed_prompts(texts).T
    found = TextProbe(clip, "cat", "dog", ["a photo of a {}"], scale=7)(images)
    torch.testing.assert_close(found, (7 * cosines).softmax(1)[:, 1])
    torch.testing.assert_close(TextProbe(clip, "dog", "cat", ["a photo of a {}"], scale=7)(images), 1 - found)


def test_templates_are_averaged_as_unit_vectors_and_pairs_as_probabilities(clip):
    images, templates = pictures(3, 16, 16), ["{}", "a picture of a {}"]
    pairs = [("cat", "dog"), ("cup", "red cup")]
    means = [
        [F.normalize(clip.embed_prompts([t.format(x) for t in templates]).mean(0), dim=0) for x in p] for p in pairs
    ]
    each = [torch.sigmoid(100 * clip.embed_images(images) @ (new - old)) for old, new in means]
    found = TextProbe(clip, ["cat", "cup"], ["dog", "red cup"], templates)(images)
    torch.testing.assert_close(found, (each[0] + each[1]) / 2, rtol=1e-3, atol=1e-5)
    with pytest.raises(ValueError, match="source and target are both 'cat'"):
        TextProbe(clip, "cat", "cat")


def test_views_are_averaged_without_the_picture_as_it_is():
    images, views = pictures(3, 16, 16), Views(4)
    seen = []

    def brightness(shown):
        seen.append(shown)
        return shown.mean((1, 2, 3))

    found = ViewedProbe(brightness, views, 5)(images)
    torch.testing.assert_close(found, views(images, 5)[1:].mean((0, 2, 3, 4)))
    assert not any(torch.equal(row, image) for row in torch.cat(seen) for image in images)
    assert torch.equal(ViewedProbe(brightness, views, 5)(images), found)
    assert not torch.allclose(ViewedProbe(brightness, views, 6)(images), found, rtol=1e-4)
    with pytest.raises(ValueError, match=r"views\.count=1: must be at least 2"):
        ViewedProbe(brightness, Views(1), 5)


def test_an_enlarging_clip_sees_drawings_as_large_pixels(clip):
    """As their drawing at the size of the CLIP; gradients come back to every pixel."""
    small = pictures(2, 4, 4).requires_grad_()
    large = F.interpolate(small, (16, 16), mode="nearest")
    found = EnlargingCLIP(clip, 4).embed_images(small)
    torch.testing.assert_close(found, clip.embed_images(large))
    assert not torch.allclose(found, clip.embed_images(small), atol=1e-2)  # bicubic
    expected = torch.autograd.grad(clip.embed_images(large)[:, 0].sum(), small)
    torch.testing.assert_close(torch.autograd.grad(found[:, 0].sum(), small), expected)
    assert edit_loss([EnlargingCLIP(clip, 4)], "face", "zombie", "plain").clips[0].differentiable


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ViT-B-16",), "there is no CLIP 'ViT-B-16': give a folder, hf-hub:owner/name or MODEL:WEIGHTS"),
        (("nowhere/clip",), "there is no CLIP 'nowhere/clip'"),
        (("ViT-B-16:none",), "'none' is neither a file nor a tag of ViT-B-16"),
        (("nowhere", 0), "enlarge=0: must be at least 1"),
    ],
)
def test_a_clip_that_is_not_there(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_edit_clip(*arguments)
    assert "\n" not in str(caught.value)


def test_texts_are_those_of_the_dictionary_unless_given():
    known = edit_texts("makeup")
    assert known == (("person",), ("person with makeup",), "imagenet", 0.35)
    assert edit_texts("makeup", templates="plain").templates == "plain"
    assert edit_texts("mine", " cat", ["dog "]) == (("cat",), ("dog",), "imagenet", None)
    with pytest.raises(ValueError, match="give source and target texts, or neither"):
        edit_texts("makeup", source="cat")
    with pytest.raises(ValueError, match="no edit 'makup'"):
        edit_texts("makup")
