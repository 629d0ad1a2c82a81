"""The demo page, used in a real browser; and what it answers without one."""

import json
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from fewstep.demo.answers import Answers, painted_mask
from fewstep.demo.examples import known_examples, read_examples
from fewstep.demo.page import build
from fewstep.files.pictures import read_picture, to_picture
from fewstep.icd.editing import Editing
from fewstep.icd.pair import InvertibleConsistency
from fewstep.rng import PerSampleRng
from tests.browser import CHROMIUM, Browser
from tests.tiny_export import write_export


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return InvertibleConsistency.load(write_export(tmp_path_factory.mktemp("demo")))


@pytest.fixture
def answers(pair):
    return Answers(pair)


def gradient():
    return Image.fromarray(np.linspace(0, 255, 30 * 20 * 3).reshape(20, 30, 3).astype(np.uint8))


def drawn(*layers):
    return {"background": gradient(), "layers": list(layers), "composite": None}


def pixels(picture):
    return np.asarray(picture).astype(int)


def test_every_tab_answers_pictures_steps_and_their_cost(answers):
    editing = {"guidance_scale": 4.0, "guided_below": 0.8, "replay": True}
    for calls, answer in (
        (4, answers.generate("a red square", 4.0, 1.0, 0)),
        (8, answers.invert(gradient(), "a red square", 0)),
        (8, answers.edit(drawn(), "a red square", "a blue square", 0, **editing)),
    ):
        picture, steps, told = answer
        assert picture.size == (16, 16)
        assert [label for _, label in steps] == ["t = 1.00", "t = 0.78", "t = 0.52", "t = 0.26"]
        assert told.startswith(f"{calls} network calls · ")


def test_what_is_painted_is_the_mask(answers, pair):
    """Of a picture of 32 x 16 the 16 columns in the middle are used; the left half of them is painted."""
    paint = np.zeros((16, 32, 4), dtype=np.uint8)
    paint[:, 5:16] = 204
    wide = gradient().resize((32, 16))
    options = {"guidance_scale": 4.0, "replay": True}
    words = "a red square", "a blue square"
    layers = [Image.new("RGBA", (32, 16)), Image.fromarray(paint)]
    picture, _, told = answers.edit({"background": wide, "layers": layers}, *words, 0, **options)
    assert told.endswith("only where you painted")
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., :8] = 1
    image = read_picture(wide.crop((8, 0, 24, 16)), 16)
    rng = PerSampleRng(0, ["picture"])
    edited = pair.edit(image, [words[0]], [words[1]], rng, Editing(**options), mask)
    assert (pixels(picture) == pixels(to_picture(edited))).all()
    assert painted_mask([Image.new("RGBA", (30, 20))], gradient()) is None


def test_every_strength_is_the_edit_at_each_scale_in_one_batch(pair):
    answers, words = Answers(replace(pair, guidance_scales=(12.0, 1.0, 4.0))), ("a red square", "a blue square")
    options = {"guided_below": 1.0, "replay": True}
    picture, shown, told = answers.strengths(drawn(), *words, 0, guidance_scale=4.0, **options)
    assert told.startswith("8 network calls · ")  # as many as one edit
    assert [label for _, label in shown] == ["source", "w = 1", "w = 4", "w = 12"]
    assert (pixels(shown[0][0]) == pixels(to_picture(read_picture(gradient(), 16)))).all()
    for (edited, _), scale in zip(shown[1:], (1.0, 4.0, 12.0), strict=True):
        alone, *_ = answers.edit(drawn(), *words, 0, guidance_scale=scale, **options)
        assert abs(pixels(edited) - pixels(alone)).max() <= 1
    assert (pixels(picture) == pixels(shown[2][0])).all()  # the scale that is chosen
    assert abs(pixels(shown[1][0]) - pixels(shown[3][0])).max() > 10


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda a: a.generate(" ", 4.0, 1.0, 0), "Error: the prompt is empty"),
        (lambda a: a.generate("red", 5.0, 1.0, 0), "Error: guidance_scale 5 was not trained; choose one of 1, 4, 12"),
        (lambda a: a.invert(None, "red", 0), "Error: choose a picture first"),
        (lambda a: a.edit(None, "red", "blue", 0), "Error: choose a picture first"),
        (lambda a: a.edit(drawn(), "red", "", 0), "Error: the target is empty"),
        (lambda a: a.strengths(None, "red", "blue", 0), "Error: guidance_scale 8 was not trained"),
        (lambda a: a.strengths(drawn(), " ", "blue", 0, guidance_scale=4.0), "Error: the description of the picture"),
        (lambda a: a.edit(drawn(), "red", "a red square " * 9, 0, guidance_scale=4.0), "Error: "),
        (lambda a: a.generate("red", 4.0, 1.0, None), "Error: Seed is empty; write a number"),
        (lambda a: a.generate("red", None, 1.0, 0), "Error: Guidance scale is empty; write a number"),
        (lambda a: a.invert(gradient(), "red", None), "Error: Seed is empty"),
        (lambda a: a.edit(drawn(), "red", "blue", None, guidance_scale=4.0), "Error: Seed is empty"),
        (lambda a: a.edit(drawn(), "red", "blue", 0, amplify=None), "Error: amplify is empty; give a value"),
    ],
)
def test_a_mistake_is_one_line(answers, ask, message):
    picture, steps, told = ask(answers)
    assert (picture, steps) == (None, [])
    assert told.startswith(message)
    assert "\n" not in told


def test_without_gradio_one_line_names_the_extra(tmp_path):
    start = "from fewstep.demo import __main__ as demo; sys.exit(demo.main(['x']))"
    code = f"import sys; sys.modules['gradio'] = None; {start}"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr == 'error: the page needs gradio; pip install "fewstep[demo]"\n'


FIELD = """label => [...document.querySelectorAll('label')].find(l => l.offsetParent && l.innerText.startsWith(label))
    ?.querySelector('textarea, input')"""
FILL = f"""(label, text) => {{
    const field = ({FIELD})(label);
    Object.getOwnPropertyDescriptor(Object.getPrototypeOf(field), 'value').set.call(field, text);
    field.dispatchEvent(new Event('input', {{bubbles: true}}));
}}"""
SHOWN = "[...document.querySelectorAll('.told')].find(e => e.offsetParent && e.innerText)?.innerText"


class Page:
    def __init__(self, browser):
        self.browser = browser

    def tab(self, name):
        tabs = f"[...document.querySelectorAll('button[role=tab]')].find(e => e.innerText == '{name}')"
        self.browser.wait(tabs)
        self.browser.do(f"{tabs}.click()")
        self.browser.wait(f"{tabs}.ariaSelected == 'true'")

    def fill(self, label, text):
        labels = "[...document.querySelectorAll('label')]"
        self.browser.wait(f"{labels}.some(e => e.offsetParent && e.innerText.startsWith('{label}'))")
        self.browser.do(f"({FILL})({label!r}, {text!r})")

    def press(self, name):
        """Press the button; what the page tells then."""
        self.browser.do("document.querySelectorAll('.told').forEach(e => e.dataset.before = e.innerText)")
        found = "[...document.querySelectorAll('button.primary, button.secondary')]"
        found += f".find(e => e.offsetParent && e.innerText == '{name}')"
        self.browser.wait(found)
        self.browser.do(f"{found}.click()")
        changed = "e => e.offsetParent && /Error|calls/.test(e.innerText) && e.innerText != e.dataset.before"
        self.browser.wait(f"[...document.querySelectorAll('.told')].some({changed})")
        return self.browser.do(SHOWN)

    def text(self, label):
        """What the field in sight holds."""
        return self.browser.do(f"({FIELD})({label!r}).value")

    def sizes(self, within=".answer"):
        """Natural widths of the pictures in sight, once all are loaded."""
        pictures = f"[...document.querySelectorAll('{within} img')].filter(e => e.offsetParent)"
        self.browser.wait(f"{pictures}.length && {pictures}.every(e => e.complete && e.naturalWidth)")
        return self.browser.do(f"{pictures}.map(e => e.naturalWidth)")


@contextmanager
def opened(pair, profile, **options):
    pytest.importorskip("gradio", reason="no gradio here; the extra `demo` has it")
    if CHROMIUM is None:
        pytest.skip("no chromium here; install it to see the page in a real browser")
    from fewstep.demo.page import launch

    blocks, address = launch(pair, **options)
    browser = Browser(profile)
    try:
        browser.open(address)
        yield Page(browser)
    finally:
        browser.close()
        blocks.close()


def test_a_pair_of_avatars_opens_with_their_examples(tmp_path):
    """As assets/ has them: beside the teacher that the export names, or that the command does."""
    export = write_export(tmp_path)
    assert known_examples(None, export) is None
    (tmp_path / "avatar_examples").mkdir()
    (tmp_path / "avatar_examples" / "examples.json").write_text("[]")
    assert known_examples(None, export) is None
    assert known_examples(str(tmp_path / "sd_avatars"), export) == tmp_path / "avatar_examples"
    told = json.loads((export / "icd.json").read_text()) | {"pipeline": str(tmp_path / "sd_avatars")}
    (export / "icd.json").write_text(json.dumps(told))
    assert known_examples(None, export) == tmp_path / "avatar_examples"
    assert known_examples(None, tmp_path / "nothing") is None


def test_the_api_has_the_names_of_what_is_asked(pair):
    """As a client writes them; every one without a default that a caller must guess."""
    endpoints = build(pair).get_api_info()["named_endpoints"]
    named = {place: [given["parameter_name"] for given in told["parameters"]] for place, told in endpoints.items()}
    guidance = ["guidance_scale", "guided_below", "seed"]
    editing = ["backend", "prompt_below", "replay", "guide_by", "cross_share", "self_share", "amplify", "blend"]
    assert named == {
        "/generate": ["prompt", *guidance],
        "/invert": ["image", "source", "seed"],
        "/edit": ["drawn", "source", "target", *guidance, *editing],
        "/strengths": ["drawn", "source", "target", *guidance, *editing],
    }


@pytest.fixture(scope="module")
def page(pair, tmp_path_factory):
    with opened(pair, tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.mark.slow
def test_generate_in_the_browser(page):
    page.tab("Generate")
    assert page.press("Generate") == "Error: the prompt is empty; write what it shall be, in words"
    page.fill("Prompt", "a red square")
    assert page.press("Generate").startswith("4 network calls · ")
    assert page.sizes() == [16] * 5


@pytest.mark.slow
def test_edit_and_paint_in_the_browser(page, tmp_path):
    gradient().save(tmp_path / "cat.png")
    page.tab("Edit")
    page.fill("What it shows", "a red square")
    page.fill("What it shall show", "a blue square")
    assert page.press("Edit") == "Error: choose a picture first"
    page.browser.choose_file("input[type=file]", tmp_path / "cat.png")
    page.browser.wait(
        "[...document.querySelectorAll('button')].some(e => e.ariaLabel == 'Brush Size' && e.offsetParent)"
    )
    assert "painted" not in page.press("Edit")
    left, top, width, height = page.browser.do(
        "(b => [b.left, b.top, b.width, b.height])(document.querySelector('canvas').getBoundingClientRect())"
    )
    page.browser.drag(*[(left + width * (0.5 + x / 40), top + height * 0.5) for x in range(5)])
    assert page.press("Edit").endswith("only where you painted")
    assert page.sizes() == [16] * 5


@pytest.mark.slow
def test_examples_in_the_browser(pair, tmp_path):
    gradient().save(tmp_path / "a.png")
    first, second = ("a red square", "a blue square"), ("a red cube", "a red ball")
    entries = [{"image": "a.png", "source": source, "target": target} for source, target in (first, second)]
    (tmp_path / "examples.json").write_text(json.dumps(entries))
    fields, scales = ("What it shows", "What it shall show"), len(pair.guidance_scales)
    with opened(pair, tmp_path / "profile", examples=read_examples(tmp_path)) as page:
        page.tab("Edit")
        page.browser.wait(f"({FIELD})('What it shows')?.value == {first[0]!r}")
        assert tuple(map(page.text, fields)) == first
        assert page.sizes(".examples") == [16] * 2
        assert page.press("Every strength").startswith("8 network calls · ")
        assert page.sizes(".below") == [16] * (scales + 1)
        page.browser.do("document.querySelectorAll('.examples button')[1].click()")
        page.browser.wait(f"({FIELD})('What it shows')?.value == {second[0]!r}")
        assert tuple(map(page.text, fields)) == second
        assert page.browser.do("document.querySelectorAll('.answer img').length") == 0  # the answer to another example
        assert page.press("Edit").startswith("8 network calls · ")
        page.tab("Invert")
        assert page.text("What it shows") == second[0]
        assert page.press("Encode and decode").startswith("8 network calls · ")
        page.tab("Generate")
        assert page.text("Prompt") == second[0]
        page.browser.do("document.querySelectorAll('.label-wrap').forEach(e => e.offsetParent && e.click())")
        page.browser.wait("document.querySelectorAll('.captions input').length == 4")
        page.browser.do("document.querySelectorAll('.captions input')[1].click()")
        page.browser.wait(f"({FIELD})('Prompt')?.value == {first[1]!r}")


@pytest.mark.slow
def test_the_page_asks_nobody_else(page):
    asked = {address.split("/")[2] for address in page.browser.requests if address.startswith("http")}
    assert len(page.browser.requests) > 10
    assert {host.split(":")[0] for host in asked} == {"127.0.0.1"}


@pytest.mark.slow
def test_the_page_looks_like_a_page(page, tmp_path):
    page.browser.screenshot(tmp_path / "page.png")
    shown = np.asarray(Image.open(tmp_path / "page.png").convert("RGB"))
    assert len(np.unique(shown.reshape(-1, 3), axis=0)) > 200
