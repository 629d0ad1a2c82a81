"""The dictionary against the words and the true edits of the avatars, and files of one's own that are wrong."""

import re

import pytest
import torch

from benchmarks.avatars.evaluation_set import read_avatars
from datamodules.prepare.avatar_captions import scoring_caption
from fewstep.fast_edit.dictionary import DOMAINS, known_edit, read_edits
from fewstep.fast_edit.direction.templates import prompt_templates
from fewstep.fast_edit.direction.text_direction import text_direction
from fewstep.rewards.clip_scores import load_clip

AVATARS = {  # attribute, value before (None for any) and after
    "avatar_glasses": ("glasses", "none", "glasses"),
    "avatar_sunglasses": ("glasses", "none", "sunglasses"),
    "avatar_no_glasses": ("glasses", "glasses", "none"),
    "avatar_red_hat": ("hat", "none", "red"),
    "avatar_black_hat": ("hat", "none", "black"),
    "avatar_blond_hair": ("hair_color", None, "blond"),
    "avatar_grey_hair": ("hair_color", None, "grey"),
    "avatar_long_hair": ("hair_length", None, "long"),
    "avatar_dark_skin": ("skin", None, "dark"),
    "avatar_red_shirt": ("shirt", None, "red"),
    "avatar_pink_background": ("background", None, "pink"),
}
COLORS = {"grey", "gray", "red", "blond", "black", "dark", "pink", "white", "blue", "green"}


@pytest.fixture(scope="module")
def avatars():
    return read_avatars("data/avatars64", "train", 600)


@pytest.fixture(scope="module")
def clip():
    return load_clip("local-dir:assets/clip_avatars", None)


def words(texts):
    return {word for text in texts for word in re.findall(r"\w+", text)}


def test_every_domain_has_edits_and_their_names_tell_the_colour():
    """The authors' dictionary has "red hair" under grey_hair."""
    edits = read_edits()
    assert {edit.domain for edit in edits.values()} == set(DOMAINS)
    assert known_edit("grey_hair").target == ("person with grey hair",)
    for name, edit in edits.items():
        assert words(edit.target) & COLORS - words(edit.source) <= set(name.split("_"))
        assert set(name.split("_")) & COLORS <= words(edit.target)
    assert {name for name, edit in edits.items() if edit.domain == "avatar"} == set(AVATARS)


def test_avatar_edits_use_the_words_of_their_captions(avatars):
    said = words(avatars.caption + avatars.edited_caption)
    for name in AVATARS:
        edit = known_edit(name)
        around = [sentence.replace("{}", "") for sentence in prompt_templates(edit.templates)]
        assert words([*edit.source, *edit.target, *around]) <= said


@pytest.fixture(scope="module")
def scorer():
    return load_clip("local-dir:assets/clip_avatars_scorer", None)


@pytest.mark.parametrize("judged", [False, True], ids=["trained", "judge"])
@pytest.mark.parametrize("name", AVATARS)
def test_directions_of_texts_are_those_of_true_edits(avatars, clip, scorer, name, judged):
    """Drawn edits of this kind go along the direction, those of other attributes across it; for either CLIP."""
    edit, (attribute, before, after) = known_edit(name), AVATARS[name]
    texts = (*edit.judge_sentences(), "plain") if judged else (edit.source, edit.target, edit.templates)
    clip = scorer if judged else clip
    direction = text_direction(clip, *texts)
    changes = list(zip(avatars.changed, avatars.attributes, avatars.edited_attributes, strict=True))
    same = [
        row
        for row, (changed, old, new) in enumerate(changes)
        if changed == attribute and new.get(attribute) == after and before in (None, old.get(attribute))
    ]
    other = [row for row, (changed, _, _) in enumerate(changes) if changed != attribute][:40]
    moved = clip.embed_images(avatars.edited[same + other]) - clip.embed_images(avatars.image[same + other])
    cosine = torch.nn.functional.cosine_similarity(moved, direction[None])
    assert len(same) > 5
    assert cosine[: len(same)].mean() > 0.45
    assert cosine[len(same) :].mean().abs() < 0.2


def test_the_judge_of_avatars_is_asked_in_words_of_its_captions(avatars):
    told = [scoring_caption([seen]) for seen in avatars.attributes + avatars.edited_attributes]
    said = words(told)
    for name, (attribute, _, after) in AVATARS.items():
        edit = known_edit(name)
        before, then = edit.judge_sentences()
        assert words(before + then) <= said
        assert edit.asked == {attribute: after}
        asked = scoring_caption([{"background": "white", **edit.asked}]).removeprefix("white backdrop; figure: ")
        assert all("backdrop; figure: skin " in text and asked.strip() in text for text in then)


def test_an_unknown_name_is_one_line_with_its_neighbours():
    with pytest.raises(ValueError, match=r"no edit 'gray_hair' in edits.yaml; did you mean grey_hair") as error:
        known_edit("gray_hair")
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"did you mean avatar_black_hat, .*zombie\?"):  # nothing near: all of them
        known_edit("0123456789")


def test_a_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("moss: {domain: church, source: [church, tower], target: [mossy church, mossy tower], t0: 0.4}\n")
    edit = known_edit("moss", path)
    assert (edit.source, edit.target) == (("church", "tower"), ("mossy church", "mossy tower"))
    assert (edit.t0, edit.templates) == (0.4, "imagenet")


GOOD = "domain: face, source: face, target: old face"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: {" + GOOD + ", t0: 1.5}", "a: t0=1.5: must be a time in (0, 1]"),
        ("a: {" + GOOD + ", t0: 350}", "a: t0=350"),
        ("a: {" + GOOD + ", t0: often}", "a: t0='often'"),
        ("a: {" + GOOD + "}", "a needs domain, source, t0, target"),
        ("a: {" + GOOD + ", t0: 0.4, strength: 2}", "and may have templates, judge_source, "),
        ("a: {" + GOOD.replace("face,", "cat,", 1) + ", t0: 0.4}", "domain='cat': choose one of face, dog"),
        ("a: {" + GOOD + ", t0: 0.4, templates: many}", "templates='many'"),
        ("a: {" + GOOD.replace("old face", "face") + ", t0: 0.4}", "a: source and target are both 'face'"),
        ("a: {" + GOOD.replace("old face", "[old face, x]") + ", t0: 0.4}", "a: 1 source and 2 target texts"),
        ("a: {" + GOOD.replace("old face", "12") + ", t0: 0.4}", "a: target text 12"),
        ("a: {" + GOOD + ", t0: 0.4}\na: {" + GOOD + ", t0: 0.5}", "a stands twice"),
        ("a: 3", "a needs"),
        ("- a", "must map names to edits"),
        ("", "must map names to edits"),
        ("a: {", "cannot read the edits of"),
        ("a: !!bool x", "cannot read the edits of"),
    ],
    ids=lambda value: None,
)
def test_a_file_that_is_wrong_is_one_line(tmp_path, text, told):
    path = tmp_path / "mine.yaml"
    path.write_text(text + "\n")
    with pytest.raises(ValueError) as error:  # noqa: PT011
        read_edits(path)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"cannot read the edits of .*none.yaml"):
        read_edits(tmp_path / "none.yaml")


def test_sentences_of_ones_own_are_templates(tmp_path):
    path = tmp_path / "edits.yaml"
    path.write_text('a: {domain: face, source: cat, target: dog, t0: 0.4, templates: ["my {}", "{} on a mat"]}')
    assert known_edit("a", path).templates == ("my {}", "{} on a mat")
    path.write_text('a: {domain: face, source: cat, target: dog, t0: 0.4, templates: ["my cat"]}')
    with pytest.raises(ValueError, match=r"a: template 'my cat': must contain one \{\}"):
        known_edit("a", path)
