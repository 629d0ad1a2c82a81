"""The page of the demo: three tabs over one pair."""

from collections.abc import Callable
from typing import Any

from fewstep.demo.answers import Answers
from fewstep.demo.uploads import limited
from fewstep.icd.commands import default_scale
from fewstep.icd.pair import InvertibleConsistency

CSS = """
.gradio-container {max-width: 1080px !important; width: 100%; margin: 0 auto !important}
.hint p {font-size: 0.85em; opacity: 0.75; margin: 0}
.shown img {width: 100%; height: 100%; object-fit: contain; image-rendering: pixelated}
.told p {min-height: 1.5em; font-variant-numeric: tabular-nums}
.told p:has(.wrong) {color: #b3261e; font-weight: 600}
footer {display: none !important}
"""
HINT = "The middle {part} is used. Paint where it may change; nothing painted: anywhere."
EDITING = (
    *("guidance_scale", "guided_below", "backend", "prompt_below", "replay"),
    *("cross_share", "self_share", "amplify", "blend"),
)


def launch(
    pair: InvertibleConsistency,
    device: str = "cpu",
    host: str = "127.0.0.1",
    port: int | None = None,
    share: bool = False,
) -> tuple[Any, str]:
    """(the gradio Blocks, the address that it answers, in a thread of its own); `close()` of the first ends it."""
    import gradio as gr

    theme = gr.themes.Default(
        primary_hue="blue",
        neutral_hue="slate",
        radius_size="sm",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )  # fonts of the machine: the page asks no other server for anything
    page = build(pair, device)
    options = {"theme": theme, "css": CSS, "footer_links": [], "ssr_mode": False, "max_file_size": "64mb"}
    options |= {"server_name": host, "server_port": port, "share": share, "quiet": True, "prevent_thread_lock": True}
    _, local, public = page.launch(**options)
    return page, public or local


def build(pair: InvertibleConsistency, device: str = "cpu") -> Any:
    """The gradio Blocks, not yet launched."""
    import gradio as gr

    answers = Answers(pair, device)
    (height, width), steps = pair.model.image_size, len(pair.boundaries.decode_times) - 1
    told = f"{height} × {width} pixels" + " (height × width)" * (height != width)
    with gr.Blocks(title="fewstep", analytics_enabled=False) as page:
        gr.Markdown(f"# Few-step editing\n{told}, {steps} steps from noise and {steps} to it.")
        with gr.Tab("Edit", id="edit"):
            _edit_tab(gr, answers)
        with gr.Tab("Generate", id="generate"):
            _generate_tab(gr, answers)
        with gr.Tab("Invert", id="invert"):
            _invert_tab(gr, answers)
    return page


def _generate_tab(gr: Any, answers: Answers) -> None:
    with gr.Row():
        with gr.Column():
            prompt = gr.Textbox(label="Prompt", placeholder="what the picture shall show")
            controls = [prompt, *_guidance(gr, answers.pair, 1.0)]
            button = gr.Button("Generate", variant="primary")
        results = _results(gr, "Picture")
    _connect([button.click, prompt.submit], answers.generate, controls, results, "generate")


def _invert_tab(gr: Any, answers: Answers) -> None:
    with gr.Row():
        with gr.Column():
            image = gr.Image(label="Picture", type="pil", image_mode=None, sources=["upload", "clipboard"], height=280)
            source = gr.Textbox(label="What it shows", placeholder="the picture in words")
            controls = [limited(image), source, gr.Number(0, label="Seed", precision=0, minimum=0)]
            button = gr.Button("Encode and decode", variant="primary")
        results = _results(gr, "Decoded from its code")
    _connect([button.click, source.submit], answers.invert, controls, results, "invert")


def _edit_tab(gr: Any, answers: Answers) -> None:
    brush = gr.Brush(colors=["rgba(255, 64, 64, 0.8)"], default_size="auto")
    with gr.Row():
        with gr.Column():
            drawn = gr.ImageEditor(
                label="Picture", type="pil", brush=brush, transforms=(), layers=False, height=340,
                sources=["upload", "clipboard"], placeholder="Drop a picture here",
            )  # fmt: skip
            gr.Markdown(HINT.format(part=_part(answers.pair.model.image_size)), elem_classes="hint")
            source = gr.Textbox(label="What it shows", placeholder="the picture in words")
            target = gr.Textbox(label="What it shall show", placeholder="the same words, with your change")
            scale, tau, seed = _guidance(gr, answers.pair, 0.8)
            button = gr.Button("Edit", variant="primary")
            options = _editing(gr)
        results = _results(gr, "Edited")

    def edit(drawn: Any, source: str, target: str, seed: float, *values: Any) -> Any:
        return answers.edit(drawn, source, target, seed, **dict(zip(EDITING, values, strict=True)))

    controls = [limited(drawn), source, target, seed, scale, tau, *options]
    _connect([button.click, target.submit], edit, controls, results, "edit")


def _part(image_size: tuple[int, int]) -> str:
    """What of an upload is used, for the hint."""
    height, width = image_size
    return "square" if height == width else f"part that is {width / height:.3g} times as wide as high"


def _guidance(gr: Any, pair: InvertibleConsistency, guided_below: float) -> list[Any]:
    """Guidance scale, time from which on, seed."""
    scales = [(f"{scale:g}{' (unguided)' if scale == 1 else ''}", scale) for scale in pair.guidance_scales]
    with gr.Row():
        scale = gr.Dropdown(scales, value=default_scale(pair, None), label="Guidance scale", min_width=120)
        seed = gr.Number(0, label="Seed", precision=0, minimum=0, min_width=120)
    tau = gr.Slider(0, 1, guided_below, step=0.01, label="Guided where the noise level is at most")
    return [scale, tau, seed]


def _editing(gr: Any) -> list[Any]:
    """In the order of EDITING, without the two of guidance."""
    names = [("switch the prompt", "prompt_switch"), ("prompt-to-prompt", "prompt_to_prompt")]
    backend = gr.Radio(names, value="prompt_switch", label="Way of editing")
    with gr.Accordion("More", open=False):
        replay = gr.Checkbox(False, label="Replay: correct by what a reconstruction gets wrong")
        below = gr.Slider(0, 1, 1.0, step=0.01, label="Target's prompt where the noise level is at most")
        with gr.Row():
            cross = gr.Slider(0, 1, 0.3, step=0.05, label="Cross-attention of the source, share of steps")
            own = gr.Slider(0, 1, 0.6, step=0.05, label="Self-attention of the source, share of steps")
        amplify = gr.Slider(0, 8, 1.0, step=0.5, label="Factor on attention to new words")
        blend = gr.Checkbox(False, label="Blend: change only where the changed words are attended to")
    return [backend, below, replay, cross, own, amplify, blend]


def _results(gr: Any, label: str) -> list[Any]:
    with gr.Column():
        picture = gr.Image(
            label=label, format="png", interactive=False, height=340, elem_classes="shown", buttons=["download"]
        )
        told = gr.Markdown(elem_classes="told")
        gr.Markdown("What the decoder expects at each step, from noise to picture:", elem_classes="hint")
        steps = gr.Gallery(
            show_label=False, format="png", columns=4, height=150, buttons=[], elem_classes="shown", allow_preview=False
        )
    return [picture, steps, told]


def _connect(events: list[Any], answer: Callable[..., Any], inputs: list[Any], outputs: list[Any], name: str) -> None:
    def shown(*values: Any) -> tuple[Any, Any, str]:
        picture, steps, told = answer(*values)
        plain = told.replace("&", "&amp;").replace("<", "&lt;")
        return picture, steps, f'<span class="wrong">{plain}</span>' if picture is None else plain

    one = {"concurrency_limit": 1, "concurrency_id": "pair", "show_progress_on": outputs[0]}  # one network
    for number, event in enumerate(events):
        event(shown, inputs, outputs, api_name=f"{name}{number or ''}", **one)
