"""What the page begins with comes from a folder that anybody may have written."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewstep.demo.__main__ import main
from fewstep.demo.examples import MOST, Beginnings, Example, read_examples

AVATARS = Path(__file__).parents[3] / "assets" / "avatar_examples"
GOOD = {"image": "a.png", "source": "a red square", "target": "a blue square"}


@pytest.fixture
def folder(tmp_path):
    """Two pictures of 6 x 4 pixels, red on the left and green on the right, but not yet a list of them."""
    picture = Image.new("RGB", (6, 4), "lime")
    picture.paste("red", (0, 0, 3, 4))
    for name in ("a.png", "b.png"):
        picture.save(tmp_path / name)
    return tmp_path


def listed(folder, entries):
    (folder / "examples.json").write_text(entries if isinstance(entries, str) else json.dumps(entries))
    return folder


def test_an_example_is_a_picture_and_two_captions(folder):
    other = {"image": "b.png", "source": " a red square\n", "target": "a cube"}
    examples = read_examples(listed(folder, [GOOD, other]))
    assert examples == [
        Example(folder / "a.png", "a red square", "a blue square"),
        Example(folder / "b.png", "a red square", "a cube"),
    ]


def test_the_page_begins_with_the_first_as_the_model_sees_it(folder):
    other = GOOD | {"image": "b.png", "target": "a cube"}
    begin = Beginnings(read_examples(listed(folder, [GOOD, other])), (4, 4))
    picture, *captions = begin.first()
    assert np.asarray(picture).tolist() == [[[255, 0, 0]] * 2 + [[0, 255, 0]] * 2] * 4  # the square in the middle
    assert captions == ["a red square", "a blue square"]
    assert begin.of(1)[1:] == ("a red square", "a cube")
    assert begin.prompts() == ["a red square", "a blue square", "a cube"]
    assert Beginnings([], (2, 2)).first() == (None, "", "")


@pytest.mark.parametrize(
    ("source", "target", "change"),
    [
        (
            "tan skin and short hair, wearing a red shirt",
            "tan skin, short hair and a red hat, wearing a red shirt",
            "red hat",
        ),
        ("a red shirt and blue hair", "a blue shirt and blue hair", "blue"),
        ("a man with long hair and glasses", "a man with long hair", "no glasses"),
        ("a cat", "a cat", "a cat"),
        ("a cat on a mat", "a cat in a mat", "a cat in a mat"),
    ],
)
def test_an_example_is_called_by_what_it_changes(source, target, change):
    assert Example(Path("a.png"), source, target).change == change


def test_the_shipped_examples_are_read():
    examples = read_examples(AVATARS)
    assert len(examples) == 8
    assert len({(one.image, one.change) for one in examples}) == 8


BAD = {
    "no list": ({"image": "a.png"}, "examples.json holds no list of 1 to 64 examples; write ["),
    "empty": ([], "holds no list of 1 to 64"),
    "too many": ([GOOD] * (MOST + 1), "holds no list of 1 to 64"),
    "not JSON": ("[{]", "write a JSON list of examples"),
    "a key twice": ('[{"image": "a.png", "image": "b.png"}]', "the key 'image' stands twice"),
    "a text": ([GOOD, "a.png"], "examples.json, entry 2: its fields are 'a.png'; give image, source and target"),
    "no target": ([{"image": "a.png", "source": "x"}], "entry 1: its fields are 'image', 'source'; give"),
    "another field": ([GOOD | {"mask": "b.png"}], "entry 1: its fields are 'image', 'source', 'target', 'mask'"),
    "empty caption": ([GOOD | {"source": " "}], "entry 1: source is ' '; give a caption of 1 to 1000"),
    "a number": ([GOOD | {"target": 3}], "entry 1: target is 3; give a caption"),
    "long caption": ([GOOD | {"target": "x" * 1001}], "entry 1: target is 'xxx"),
    "a way out": ([GOOD | {"image": "../a.png"}], "entry 1: image is '../a.png'; give the name of a picture in this"),
    "a way out of Windows": ([GOOD | {"image": "..\\a.png"}], "give the name of a picture in this folder"),
    "the folder": ([GOOD | {"image": ".."}], "entry 1: image is '..'"),
    "a list": ([GOOD | {"image": ["a.png"]}], "entry 1: image is ['a.png']"),
    "an escape": ([GOOD | {"image": "a\x1b[2J.png"}], "entry 1: image is 'a\\x1b[2J.png'"),
    "missing": ([GOOD | {"image": "c.png"}], "entry 1: there is no file 'c.png' beside it; put the picture there"),
    "a link": ([GOOD | {"image": "link.png"}], "entry 1: there is no file 'link.png' beside it"),
    "no picture": ([GOOD, GOOD | {"image": "examples.json"}], "entry 2: "),
}


@pytest.mark.parametrize(("entries", "message"), BAD.values(), ids=BAD)
def test_what_is_wrong_is_one_line(folder, entries, message):
    (folder / "link.png").symlink_to(folder / "a.png")
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the message is compared below
        read_examples(listed(folder, entries))
    assert message in str(caught.value)
    assert str(folder / "examples.json") in str(caught.value)
    assert str(caught.value).isprintable()


def test_the_command_ends_before_it_loads_a_network(folder, capsys):
    pytest.importorskip("gradio", reason="no gradio here; the extra `demo` has it")
    assert main([str(folder / "no export"), "--examples", str(folder)]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: cannot read {folder}/examples.json (No such file or directory); name a folder with")
    assert told.count("\n") == 1
