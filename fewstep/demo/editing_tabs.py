"""The tabs over a pair of students: edit, generate, invert."""

from collections.abc import Callable, Sequence
from typing import Any

from fewstep.demo.answers import Answers
from fewstep.demo.examples import Beginnings, Example
from fewstep.demo.told import shown_line
from fewstep.demo.uploads import limited
from fewstep.icd.commands import default_scale
from fewstep.icd.pair import InvertibleConsistency

ONE = {"concurrency_limit": 1, "concurrency_id": "networks"}  # at a time
HINT = "The middle {part} is used. Paint where it may change; nothing painted: anywhere."
STEPS = "What the decoder expects at each step, from noise to picture:"
STRENGTHS = "From the picture to the strongest guidance; above, the scale that is chosen:"


def editing_tabs(gr: Any, pair: InvertibleConsistency, device: str, examples: Sequence[Example]) -> None:
    answers, begin = Answers(pair, device), Beginnings(examples, pair.model.image_size)
    (height, width), steps = pair.model.image_size, len(pair.boundaries.decode_times) - 1
    told = f"{height} × {width} pixels" + " (height × width)" * (height != width)
    gr.Markdown(f"# Few-step editing\n{told}, {steps} steps from noise and {steps} to it.")
    shown = _examples(gr, begin) if examples else None
    with gr.Tab("Edit", id="edit"):
        edit = _edit_tab(gr, answers, begin)
    with gr.Tab("Generate", id="generate"):
        generate = _generate_tab(gr, answers, begin)
    with gr.Tab("Invert", id="invert"):
        invert = _invert_tab(gr, answers, begin)
    if shown is not None:

        def fill(event: gr.SelectData) -> list[Any]:
            picture, source, target = begin.of(event.index)
            cleared: list[Any] = [None, [], "", STEPS]  # the answer to another example is none to this one
            return [picture, source, target, *cleared, source, *cleared, picture, source, *cleared]

        shown.select(fill, None, [*edit, *generate, *invert], queue=False, show_progress="hidden")


def _examples(gr: Any, begin: Beginnings) -> Any:
    """All examples, each under what is to change."""
    shown = [(picture, f"→ {one.change}") for picture, one in zip(begin.pictures, begin.examples, strict=True)]
    gr.Markdown("Examples: choose a picture and its edit.", elem_classes="hint")
    return gr.Gallery(
        shown, show_label=False, label="Examples", format="png", columns=len(shown), buttons=[], allow_preview=False,
        selected_index=0, elem_classes=["shown", "examples"], interactive=False,
    )  # fmt: skip


def _generate_tab(gr: Any, answers: Answers, begin: Beginnings) -> list[Any]:
    with gr.Row():
        with gr.Column():
            _, first, _ = begin.first()
            prompt = gr.Textbox(first, label="Prompt", placeholder="what the picture shall show")
            controls = {"prompt": prompt, **_guidance(gr, answers.pair, 1.0)}
            button = gr.Button("Generate", variant="primary")
            if prompts := begin.prompts():
                with gr.Accordion("Captions of the examples", open=False):
                    captions = gr.Radio(prompts, show_label=False, container=False, elem_classes="captions")
                captions.input(lambda text: text, captions, prompt, queue=False, show_progress="hidden")
        results = _results(gr, "Picture")
    _connect([button.click, prompt.submit], answers.generate, controls, results, "generate")
    return [prompt, *results]


def _invert_tab(gr: Any, answers: Answers, begin: Beginnings) -> list[Any]:
    picture, words, _ = begin.first()
    with gr.Row():
        with gr.Column():
            image = gr.Image(
                picture, label="Picture", type="pil", image_mode=None, sources=["upload", "clipboard"], height=280,
                format="png", elem_classes="shown",
            )  # fmt: skip
            source = gr.Textbox(words, label="What it shows", placeholder="the picture in words")
            seed = gr.Number(0, label="Seed", precision=0, minimum=0)
            controls = {"image": limited(image), "source": source, "seed": seed}
            button = gr.Button("Encode and decode", variant="primary")
        results = _results(gr, "Decoded from its code")
    _connect([button.click, source.submit], answers.invert, controls, results, "invert")
    return [image, source, *results]


def _edit_tab(gr: Any, answers: Answers, begin: Beginnings) -> list[Any]:
    brush = gr.Brush(colors=["rgba(255, 64, 64, 0.8)"], default_size="auto")
    picture, old, new = begin.first()
    with gr.Row():
        with gr.Column():
            drawn = gr.ImageEditor(
                picture, label="Picture", type="pil", brush=brush, transforms=(), layers=False, height=340,
                sources=["upload", "clipboard"], placeholder="Drop a picture here", format="png",
            )  # fmt: skip
            gr.Markdown(HINT.format(part=_part(answers.pair.model.image_size)), elem_classes="hint")
            source = gr.Textbox(old, label="What it shows", placeholder="the picture in words")
            target = gr.Textbox(new, label="What it shall show", placeholder="the same words, with your change")
            guidance = _guidance(gr, answers.pair, 0.8)
            with gr.Row():
                button = gr.Button("Edit", variant="primary", min_width=180)
                every = gr.Button("Every strength", min_width=180)
            options = _editing(gr)
        results = _results(gr, "Edited")

    controls = {"drawn": limited(drawn), "source": source, "target": target, **guidance, **options}
    _connect([button.click, target.submit], answers.edit, controls, results, "edit")
    _connect([every.click], answers.strengths, controls, results, "strengths", STRENGTHS)
    return [drawn, source, target, *results]


def _part(image_size: tuple[int, int]) -> str:
    """What of an upload is used, for the hint."""
    height, width = image_size
    return "square" if height == width else f"part that is {width / height:.3g} times as wide as high"


def _guidance(gr: Any, pair: InvertibleConsistency, guided_below: float) -> dict[str, Any]:
    """Guidance scale, time from which on, seed."""
    scales = [(f"{scale:g}{' (unguided)' if scale == 1 else ''}", scale) for scale in pair.guidance_scales]
    with gr.Row():
        scale = gr.Dropdown(scales, value=default_scale(pair, None), label="Guidance scale (strength)", min_width=120)
        seed = gr.Number(0, label="Seed", precision=0, minimum=0, min_width=120)
    tau = gr.Slider(0, 1, guided_below, step=0.01, label="Guided where the noise level is at most")
    return {"guidance_scale": scale, "guided_below": tau, "seed": seed}


def _editing(gr: Any) -> dict[str, Any]:
    """By the names that `Answers.edit` takes."""
    names = [("switch the prompt", "prompt_switch"), ("prompt-to-prompt", "prompt_to_prompt")]
    backend = gr.Radio(names, value="prompt_switch", label="Way of editing")
    with gr.Accordion("More", open=False):
        replay = gr.Checkbox(False, label="Replay: correct by what a reconstruction gets wrong")
        ways = [("the target's prompt", "prompt"), ("what sets it apart from the source's", "difference")]
        guide_by = gr.Radio(ways, value="prompt", label="Guided by (the second not with prompt-to-prompt)")
        below = gr.Slider(0, 1, 1.0, step=0.01, label="Target's prompt where the noise level is at most")
        with gr.Row():
            cross = gr.Slider(0, 1, 0.3, step=0.05, label="Cross-attention of the source, share of steps")
            own = gr.Slider(0, 1, 0.6, step=0.05, label="Self-attention of the source, share of steps")
        amplify = gr.Slider(0, 8, 1.0, step=0.5, label="Factor on attention to new words")
        blend = gr.Checkbox(False, label="Blend: change only where the changed words are attended to")
    named = {"backend": backend, "prompt_below": below, "replay": replay, "guide_by": guide_by}
    return named | {"cross_share": cross, "self_share": own, "amplify": amplify, "blend": blend}


def _results(gr: Any, label: str) -> list[Any]:
    with gr.Column():
        picture = gr.Image(
            label=label,
            format="png",
            interactive=False,
            height=340,
            elem_classes=["shown", "answer"],
            buttons=["download"],
        )
        told = gr.Markdown(elem_classes="told")
        hint = gr.Markdown(STEPS, elem_classes="hint")
        steps = gr.Gallery(
            show_label=False,
            format="png",
            columns=4,
            buttons=[],
            elem_classes=["shown", "answer", "below"],
            allow_preview=False,
        )
    return [picture, steps, told, hint]


def _connect(
    events: list[Any],
    answer: Callable[..., Any],
    inputs: dict[str, Any],
    outputs: list[Any],
    name: str,
    hint: str = STEPS,
) -> None:
    """inputs: by the names of the answer's arguments, which are those of the page's API, too.

    hint: what the pictures below the answer are.
    """

    def shown(**values: Any) -> tuple[Any, Any, str, str]:
        picture, below, told = answer(**values)
        return picture, below, shown_line(told, picture is None), STEPS if picture is None else hint

    for number, event in enumerate(events):
        api = {"api_name": f"{name}{number}", "api_visibility": "private"} if number else {"api_name": name}
        event(shown, None, outputs, inputs_kwargs=inputs, show_progress_on=outputs[0], **api, **ONE)
