"""What is said of avatars: read back from the sentences by a reader of its own, splits, edits, and what is covered."""

import re
from collections import Counter, defaultdict
from itertools import islice

import numpy as np
import pytest

from datamodules.prepare.avatar_attributes import attributes_of, edits, may_be_hidden, options_of, split_of
from datamodules.prepare.avatar_captions import PLACES, captions, instruction, scoring_caption
from datamodules.prepare.avatar_drawing import Avatars
from datamodules.prepare.avatar_styles import BACKGROUNDS, COLOURS, HAIR, SKIN, STYLES
from datamodules.prepare.avatars import scenes_of

NAMES = [f"0 avatar_{number:06d}" for number in range(400)]
WAYS = {  # attribute: what says it in a caption
    "background": rf"on a ({'|'.join(BACKGROUNDS)}) background",
    "skin": rf"({'|'.join(SKIN)}) skin",
    "shirt": rf"wearing a ({'|'.join(COLOURS)}) shirt",
    "hair_length": r"(short|long) (?:\w+ )?hair",
    "hair_color": rf"({'|'.join(HAIR)}) hair",
    "glasses": r"(glasses|sunglasses)",
    "hat": rf"a ({'|'.join(COLOURS)}) hat",
    "mouth": r"a (smiling|sad) mouth",
    "beard": r"a (beard)",
    "freckles": r"(freckles)",
    "earrings": r"(earrings)",
}


def said(text: str) -> dict[str, str]:
    """{attribute: value} that a sentence about one person says."""
    found = {name: re.findall(rf"\b{way}\b", text) for name, way in WAYS.items()}
    assert all(len(values) <= 1 for values in found.values()), text
    return {name: values[0] for name, values in found.items() if values}


def seen_of(style: str, name: str) -> dict[str, str]:
    """Attributes, of every second one that wears a hat without those below it."""
    attributes = attributes_of(style, name)
    covered = may_be_hidden(attributes)[int(name[-1]) % 3 :]
    return {key: value for key, value in attributes.items() if key not in covered}


@pytest.mark.parametrize("style", STYLES)
def test_captions_of_one_person_read_back(style):
    for name in NAMES:
        seen = seen_of(style, name)
        complete, *others = captions(style, [seen])
        assert {**dict.fromkeys(seen, "none"), **said(complete.text)} == seen
        assert complete.named == [list(seen)]
        for caption in others:
            assert said(caption.text) == {key: seen[key] for key in caption.named[0]}
            assert 0 < len(caption.named[0]) < len(seen)
            assert "none" not in caption.text
        assert "with ," not in "".join(caption.text for caption in (complete, *others))


@pytest.mark.parametrize("number", [2, 3, 4])
def test_captions_of_scenes_read_back_person_by_person(number):
    for first in range(0, len(NAMES) - number, number):
        persons = [{**seen_of("pixel-art", NAMES[first + p]), "background": "pink"} for p in range(number)]
        for level, caption in enumerate(captions("pixel-art", persons)):
            parts = re.split("|".join(f", {place} one" for place in PLACES[number]), caption.text)
            assert len(parts) == 1 + number
            for part, seen, named in zip(parts[1:], persons, caption.named, strict=True):
                found = said(part)
                told = {key: seen[key] for key in named if seen[key] != "none" and key != "background"}
                assert {key: value for key, value in found.items() if key != "background"} == told
                assert level or named == list(seen)
            assert ("background" in caption.named[0]) == caption.text.endswith(", on a pink background")


def test_the_second_grammar_settles_every_attribute():
    for name in NAMES[:100]:
        seen = seen_of("pixel-art", name)
        backdrop, figure = scoring_caption([seen]).split("; ")
        parts = [backdrop.removesuffix(" backdrop"), *figure.removeprefix("figure: ").split(", ")]
        words = dict(zip(seen, parts, strict=True))
        values = {key: word.removeprefix(key.replace("_", " ") + " ") for key, word in words.items()}
        assert {key: "none" if value.startswith("no ") else value for key, value in values.items()} == seen
    assert scoring_caption([seen, seen]).count(figure.removeprefix("figure: ")) == 2


@pytest.mark.parametrize("style", STYLES)
def test_an_edit_changes_only_the_options_of_one_attribute(style):
    first = Counter()
    for name in NAMES:
        before = attributes_of(style, name)
        found = edits(style, name, before)
        assert len({(key, after[key]) for key, after in found}) == len(found)
        for changed, after in found:
            assert changed not in may_be_hidden(before)
            assert [key for key in before if before[key] != after[key]] == [changed]
            old, new = (options_of(style, name, values) for values in (before, after))
            may_change = {key for values in STYLES[style].attributes[changed].values() for key in values}
            assert {key for key in old | new if old.get(key) != new.get(key)} <= may_change
            assert all(len(choice) == 1 for choice in new.values() if isinstance(choice, list))
            request = instruction(changed, before[changed], after[changed])
            assert after[changed] == "none" or after[changed] in request or changed in ("mouth", "beard")
            assert instruction(changed, before[changed], after[changed], "on the left") == f"on the left, {request}"
        first.update([found[0][0]] if found else [])
    assert set(first) == set(STYLES[style].attributes)


@pytest.mark.parametrize("number", [1, 2])
def test_no_caption_of_the_test_split_is_trained_on(number):
    """Whatever is covered: the reader of the captions sees either all attributes or none that may be hidden."""
    said_in, shares = defaultdict(set), Counter()
    for _, scene in islice(scenes_of("pixel-art", "0", number), 1500 if number == 1 else 300):
        shares[scene.split] += 1
        persons = [person.attributes for person in scene.persons]
        assert {split_of("pixel-art", attributes) for attributes in persons} == {scene.split}
        assert len({attributes["background"] for attributes in persons}) == 1
        ends = [persons, *([*persons[: e.person], e.after, *persons[e.person + 1 :]] for e in scene.edits)]
        for end in ends:
            bare = [{k: v for k, v in one.items() if k not in may_be_hidden(one)} for one in end]
            for shown in (end, bare):
                for one in shown:  # of scenes, too, no single person occurs in two splits
                    said_in[captions("pixel-art", [one])[0].text].add(scene.split)
    assert set(map(len, said_in.values())) == {1}
    total = sum(shares.values())
    for split, part in (("train", 0.8), ("val", 0.1), ("test", 0.1)):
        assert abs(shares[split] / total - part) < 5 * (part * (1 - part) / total) ** 0.5


def test_what_a_hat_covers_is_measured():
    """Hair of 3 or of 4 of 256 pixels: below 1/64 of the picture it cannot be seen."""
    drawn = object.__new__(Avatars)
    drawn.style = "pixel-art"
    attributes = {"hat": "red", "hair_length": "short", "hair_color": "brown", "skin": "light"}

    def picture(name, wanted, size):
        canvas = np.zeros((16, 16, 3), dtype=np.uint8)
        canvas.reshape(-1, 3)[: int(name)] = ord(wanted["hair_color"][-1])
        canvas[-2 if wanted["hair_length"] == "long" else -1] = 200
        return canvas

    drawn.picture = picture
    assert drawn.covered("3", attributes, picture("3", attributes, 16)) == ["hair_color"]
    assert drawn.covered("4", attributes, picture("4", attributes, 16)) == []
    assert drawn.covered("3", {**attributes, "hat": "none"}, picture("3", attributes, 16)) == []
