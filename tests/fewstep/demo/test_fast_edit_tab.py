"""The tab of learnt edits: what it answers without a browser, and in a real one."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from fewstep.backbones.pipelines import save_ddpm
from fewstep.demo.examples import read_examples
from fewstep.demo.fast_edit_answers import MOST, FastEditAnswers
from fewstep.fast_edit.__main__ import main as fast_edit
from fewstep.fast_edit.application import Application
from fewstep.fast_edit.edit_base import load_base
from fewstep.fast_edit.edit_file import save_edit
from fewstep.fast_edit.edit_header import EditAbout
from fewstep.fast_edit.encoding import Encoding
from fewstep.fast_edit.tuned import TunedAdapters
from fewstep.files.pictures import to_picture
from tests.test_demo import FIELD, opened
from tests.tiny_edit_base import pictures, pixel_unet, trained

HOW = Application(Encoding(0.4), num_steps=2, projection=0.05, projection_steps=2)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A base, two edits of it, and one of another base."""
    folder = tmp_path_factory.mktemp("edits")
    for seed, name in enumerate(("base", "other")):
        save_ddpm(folder / name, pixel_unet(seed))
    for name, of, rank in (("hat", "base", 2), ("old", "base", 3), ("foreign", "other", 2)):
        tuned = trained(TunedAdapters(load_base(folder / of), [name], rank), rank)
        about = EditAbout(("face",), ("old face",), str(folder / of), application=HOW)
        save_edit(folder / f"{name}.safetensors", tuned, name, about)
    to_picture(pictures(1, 24, 16)[0]).save(folder / "picture.png")
    return folder


def files(places, *names):
    return [places / f"{name}.safetensors" for name in names]


@pytest.fixture(scope="module")
def answers(places):
    return FastEditAnswers.load(files(places, "hat", "old"))


def pixels(picture):
    return np.asarray(picture).astype(int)


@pytest.mark.parametrize("strengths", [(0.7, 0.5), (1.0, 0.0), (0.0, 1.5)], ids=str)
def test_sliders_are_the_weights_of_mix(answers, places, tmp_path, strengths):
    """A picture of another size than the base's keeps it; an edit at 0 is not asked."""
    named = {file: share for file, share in zip(files(places, "hat", "old"), strengths, strict=True) if share}
    options = [word for file, share in named.items() for word in ("--edit", f"{file}={share}")]
    assert fast_edit(["mix", str(places / "picture.png"), *options, "--out", str(tmp_path), "--seed", "3"]) == 0
    with Image.open(places / "picture.png") as given:
        edited, told, wrong = answers.edit(given, 3, *strengths)
        other, *_ = answers.edit(given, 4, *strengths)
        before = pixels(given)
    assert not wrong
    shares = {file.stem: share for file, share in named.items()}
    assert told.startswith(", ".join(f"{name} {share:g} (not audited)" for name, share in shares.items()))
    assert f" · {HOW.passes(shares)} network passes · " in told
    assert edited.size == (16, 24)
    with Image.open(tmp_path / "picture.png") as written:
        assert abs(pixels(edited) - pixels(written)).max() <= 1
    assert abs(pixels(edited) - before).max() > 5
    assert (pixels(edited) != pixels(other)).any()


def test_without_residual_the_middle_is_edited_at_the_size_of_the_base(answers, places):
    alone = replace(answers, how=replace(HOW, residual=False))
    with Image.open(places / "picture.png") as given:
        edited, told, wrong = alone.edit(given, 0, 1.0, 0.0)
    assert not wrong, told
    assert edited.size == (8, 8)


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda a, p: a.edit(None, 0, 1.0, 0.0), "Error: choose a picture first"),
        (lambda a, p: a.edit(p, None, 1.0, 0.0), "Error: Seed is empty; write a number"),
        (lambda a, p: a.edit(p, 0, None, 0.0), "Error: hat is empty; write a number"),
        (lambda a, p: a.edit(p, 0, 0.0, 0.0), "Error: all edits are at 0; move a slider"),
        (lambda a, p: a.edit(p, 0, 1.0, -1.0), "Error: old=-1"),
        (lambda a, p: a.edit(p.resize((90, 10)), 0, 1.0, 0.0), "Error: a picture of 10 x 90 pixels is too long"),
    ],
    ids=["picture", "seed", "strength", "zero", "negative", "long"],
)
def test_a_mistake_is_one_line(answers, places, ask, told):
    with Image.open(places / "picture.png") as given:
        edited, line, wrong = ask(answers, given)
    assert (edited, wrong) == (None, True)
    assert line.startswith(told)
    assert "\n" not in line


def test_files_that_do_not_go_together_are_told_before_a_page(places):
    for given, told in (
        (files(places, "hat", "foreign"), "only edits of one base go together"),
        (files(places, "hat", "hat"), "both named hat"),
        (files(places, "hat") * (MOST + 1), f"{MOST + 1} edits: the page takes 1 to {MOST}"),
    ):
        with pytest.raises(ValueError, match=told):
            FastEditAnswers.load(given)


@pytest.mark.slow
def test_the_tab_in_the_browser(places, answers, tmp_path):
    """Alone: there is no pair. The examples lend their pictures."""
    for number in range(2):
        to_picture(pictures(1, 8, 8, seed=number)[0]).save(tmp_path / f"{number}.png")
    entries = [{"image": f"{number}.png", "source": "a face", "target": "a hat"} for number in range(2)]
    (tmp_path / "examples.json").write_text(json.dumps(entries))
    with opened(None, tmp_path / "profile", examples=read_examples(tmp_path), edits=answers) as page:
        page.tab("Learnt edits")
        page.browser.wait("document.querySelectorAll('button[role=tab]').length == 1")
        page.browser.wait(f"({FIELD})('Seed')")
        names = "[...document.querySelectorAll('input[type=range]')].filter(e => e.offsetParent).map(e => +e.value)"
        page.browser.wait(f"{names}.length == 2")
        assert page.browser.do(names) == [1, 0]
        assert page.sizes(".examples") == [8] * 2
        button = "[...document.querySelectorAll('button.primary')].find(e => e.innerText == 'Apply')"
        page.browser.wait(f"!!{button}")
        page.browser.do(f"{button}.click()")
        page.browser.wait(
            "[...document.querySelectorAll('.told')].some(e => /hat 1 .not audited. · .* passes/.test(e.innerText))"
        )
        assert page.sizes() == [8]
        page.browser.do("document.querySelectorAll('.examples button')[1].click()")
        page.browser.wait("[...document.querySelectorAll('.told')].every(e => !/passes/.test(e.innerText))")
        page.browser.wait("![...document.querySelectorAll('.answer img')].some(e => e.offsetParent)")
