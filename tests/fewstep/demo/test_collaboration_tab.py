"""The tab of the collaboration: what it answers without a browser, and in a real one."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from fewstep.collaboration import oracles
from fewstep.collaboration.__main__ import main as collaborate
from fewstep.demo import __main__ as demo
from fewstep.demo.collaboration_answers import MOST, CollaborationAnswers
from fewstep.demo.told import shown_line
from fewstep.files.pictures import to_picture
from fewstep.rewards.attribute_reader import AttributeReader
from tests.test_demo import FIELD, opened
from tests.tiny_diffusion import CAPTIONS, write_pipeline

SETTINGS = {"student_steps": 2, "teacher_steps": 3, "teacher_scale": 2.0}
FLAGS = ["--student-steps", "2", "--teacher-steps", "3", "--teacher-scale", "2"]


class Redness(nn.Module):
    def forward(self, images, prompts):
        return images[:, 0].mean((1, 2)) - images[:, 1:].mean((1, 2, 3))


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """(pipeline, prompts with attributes, {oracle: calibration})."""
    folder = tmp_path_factory.mktemp("tab")
    pipeline, prompts = write_pipeline(folder / "pipeline", "sd_v"), folder / "prompts.jsonl"
    rows = [{"prompt": caption, "attributes": {"colour": caption.split()[1]}} for caption in CAPTIONS]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    torch.manual_seed(0)
    values = {"colour": [caption.split()[1] for caption in CAPTIONS]}
    reader = AttributeReader(values, "convnext_atto", {"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8]}, 32)
    reader.save_pretrained(folder / "reader")
    calibrations = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(oracles.ORACLES, "redness", Redness)
        for number, oracle in enumerate(("redness", f"attributes={folder / 'reader'}")):
            calibrations[oracle] = folder / f"{number}.json"
            given = ["--teacher", pipeline, "--oracle", oracle, "--prompts", str(prompts)]
            argv = ["calibrate", pipeline, *given, *FLAGS, "--out", str(calibrations[oracle])]
            assert collaborate(argv) == 0
        yield pipeline, prompts, calibrations


def loaded(places, number=0, prompts=None):
    pipeline, _, calibrations = places
    oracle = list(calibrations)[number]
    return CollaborationAnswers.load(pipeline, oracle, calibrations[oracle], prompts, teacher=pipeline, **SETTINGS)


@pytest.fixture(scope="module")
def answers(places):
    return loaded(places)


def pixels(picture):
    return np.asarray(picture).astype(int)


def test_every_prompt_has_its_draft_and_what_became_of_it(answers):
    text = "\n".join([*CAPTIONS, "", f"  {CAPTIONS[0]} "])
    shown, told, wrong = answers.draw(text, answers.mean_passes, 3)
    assert not wrong
    assert len(shown) == 10
    seeds = [f"3:{key}" for key in [*CAPTIONS, f"{CAPTIONS[0]}-2"]]
    prompts = [*CAPTIONS, CAPTIONS[0]]
    policy = answers.pipe.chosen(answers.mean_passes)
    result = answers.pipe(prompts, seeds, policy=policy)
    passes = answers.pipe.passes(result, policy)
    assert 0 < result.repaired.sum() < 5
    assert told.startswith(f"{int(result.repaired.sum())} of 5 repaired · {passes.mean():.2f} passes on average, 6 for")
    for place, repaired in enumerate(result.repaired.tolist()):
        (draft, label), (final, route) = shown[2 * place : 2 * place + 2]
        assert label == f"{place + 1} · draft, score {result.draft_scores[place]:.3g}"
        assert route.startswith(f"{'refine' if repaired else 'keep'} · {passes[place]:.2f} passes")
        assert (", score" in route) == (not repaired)  # nobody has looked at what the teacher made
        assert (pixels(draft) == pixels(to_picture(result.draft_images[place : place + 1]))).all()
        assert (pixels(final) == pixels(to_picture(result.images[place : place + 1]))).all()
        assert (pixels(draft) == pixels(final)).all() == (not repaired)


def test_more_passes_repair_all_and_no_seed_is_like_another(answers):
    all_of_them, told, _ = answers.draw(CAPTIONS[1], 1000, 0)
    assert told.startswith("1 of 1 repaired")
    other, _, _ = answers.draw(CAPTIONS[1], 1000, 1)
    assert (pixels(all_of_them[0][0]) != pixels(other[0][0])).any()


def test_an_oracle_that_reads_attributes_knows_those_of_the_file(places):
    answers = loaded(places, 1, places[1])
    assert list(answers.attributes) == CAPTIONS
    shown, told, wrong = answers.draw("\n".join(CAPTIONS[:2]), answers.mean_passes, 0)
    assert not wrong, told
    assert len(shown) == 4
    shown, told, wrong = answers.draw("a red cube", answers.mean_passes, 0)
    assert (shown, wrong) == ([], True)
    assert "prompt a red cube has no attributes" in told


@pytest.mark.parametrize(
    ("text", "mean_passes", "seed", "told"),
    [
        (" \n", 9, 0, f"Error: 0 prompts: write 1 to {MOST}, each on a line of its own"),
        ("a red square\n" * (MOST + 1), 9, 0, f"Error: {MOST + 1} prompts"),
        ("a red square", 0.1, 0, "Error: mean_passes=0.1: drafts and the oracle alone take"),
        ("a red square " * 9, 9, 0, "Error: "),
        ("a red square", None, 0, "Error: Passes per picture is empty; write a number"),
        ("a red square", 9, None, "Error: Seed is empty; write a number"),
    ],
)
def test_a_mistake_is_one_line(answers, text, mean_passes, seed, told):
    shown, line, wrong = answers.draw(text, mean_passes, seed)
    assert (shown, wrong) == ([], True)
    assert line.startswith(told)
    assert "\n" not in line


def test_a_line_brings_no_markup_along():
    assert shown_line("a <b> & c", False) == "a &lt;b> &amp; c"
    assert shown_line("<b>", True) == '<span class="wrong">&lt;b></span>'


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        ([], "error: give EXPORT or --edit FILE to edit pictures, --collaboration STUDENT to draw them, or several"),
        (["--examples", "x", "--collaboration", "y"], "error: --examples are for editing; give EXPORT or --edit, too"),
        (["--collaboration", "y", "--prompts", "none.txt"], "error: none.txt"),
        (["--edit", "nowhere.safetensors"], "error: there is no edit nowhere.safetensors"),
        (["--collaboration", "nowhere"], "error: nowhere is a pipeline that names no teacher"),
    ],
)
def test_what_the_page_cannot_begin_with_is_one_line(argv, told, capsys):
    pytest.importorskip("gradio")
    assert demo.main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith(told)
    assert error.count("\n") == 1


@pytest.mark.slow
def test_the_tab_in_the_browser(places, tmp_path):
    """Alone: there is no pair to edit with."""
    with opened(None, tmp_path, together=loaded(places, 1, places[1])) as page:
        page.tab("Collaboration")
        page.browser.wait("document.querySelectorAll('button[role=tab]').length == 1")
        page.browser.wait(f"({FIELD})('Prompts')")
        assert page.text("Prompts").splitlines() == CAPTIONS
        drawn = "[...document.querySelectorAll('.told')].some(e => /repaired/.test(e.innerText))"
        button = "[...document.querySelectorAll('button.primary')].find(e => e.innerText == 'Draw')"
        page.browser.wait(f"!!{button}")
        page.browser.do(f"{button}.click()")
        page.browser.wait(drawn)
        assert page.sizes() == [16] * 8
        captions = page.browser.do("[...document.querySelectorAll('.caption-label')].map(e => e.innerText)")
        assert [caption.partition(" · ")[0] for caption in captions[::2]] == ["1", "2", "3", "4"]
        assert {caption.partition(" · ")[0] for caption in captions[1::2]} <= {"keep", "refine"}
        page.fill("Prompts", "a red cube")
        page.browser.do(f"{button}.click()")
        page.browser.wait("document.querySelector('.wrong')?.innerText.includes('has no attributes')")
