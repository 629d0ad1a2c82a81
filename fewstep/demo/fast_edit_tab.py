"""The tab of learnt edits: a picture and a slider for each file on the left, the edited picture on the right."""

import re
from collections.abc import Sequence
from typing import Any

from fewstep.demo.examples import Example
from fewstep.demo.fast_edit_answers import STRONGEST, FastEditAnswers
from fewstep.demo.told import shown_line
from fewstep.demo.uploads import limited
from fewstep.files.pictures import read_whole, to_picture

HINT = "How much of each edit: 0 is none, 1 as it was learnt."


def fast_edit_tab(gr: Any, answers: FastEditAnswers, examples: Sequence[Example], one: dict[str, Any]) -> None:
    """Inside a gradio Tab. Of examples, only the pictures. one: the options of events that share one network."""
    pictures = [to_picture(read_whole(example.image)) for example in examples]
    looks = {"format": "png", "height": 340, "type": "pil", "image_mode": None}
    with gr.Row():
        with gr.Column():
            begin = pictures[0] if pictures else None
            given = gr.Image(begin, label="Picture", sources=["upload", "clipboard"], elem_classes="shown", **looks)
            gr.Markdown(HINT, elem_classes="hint")
            sliders = [
                gr.Slider(0, STRONGEST, float(number == 0), step=0.05, label=name)
                for number, name in enumerate(answers.names)
            ]
            seed = gr.Number(0, label="Seed", precision=0, minimum=0)
            button = gr.Button("Apply", variant="primary")
        with gr.Column():
            edited = gr.Image(
                label="Edited", interactive=False, buttons=["download"], elem_classes=["shown", "answer"], **looks
            )
            told = gr.Markdown(elem_classes="told")
            shown = _examples(gr, pictures) if pictures else None

    def edit(picture: Any, seed: float | None, **strengths: float | None) -> tuple[Any, str]:
        picture, line, wrong = answers.edit(picture, seed, *strengths.values())
        return picture, shown_line(line, wrong)

    words = [re.sub(r"\W", "_", f"strength_{name}") for name in answers.names]  # of the page's API
    unique = [f"{word}_{n}" if words.count(word) > 1 else word for n, word in enumerate(words, 1)]
    event = {"inputs_kwargs": dict(zip(unique, sliders, strict=True)), "api_name": "apply", "show_progress_on": edited}
    button.click(edit, [limited(given), seed], [edited, told], **event, **one)
    if shown is not None:

        def fill(event: gr.SelectData) -> tuple[Any, None, str]:
            return pictures[event.index], None, ""

        shown.select(fill, None, [given, edited, told], queue=False, show_progress="hidden")


def _examples(gr: Any, pictures: Sequence[Any]) -> Any:
    gr.Markdown("Examples: choose a picture.", elem_classes="hint")
    return gr.Gallery(
        list(pictures), show_label=False, label="Example pictures", format="png", columns=len(pictures), buttons=[],
        allow_preview=False, selected_index=0, elem_classes=["shown", "examples"], interactive=False,
    )  # fmt: skip
