"""The tab of the collaboration: prompts on the left; on the right their drafts, and beside each what became of it."""

from typing import Any

from fewstep.demo.collaboration_answers import MOST, CollaborationAnswers
from fewstep.demo.told import shown_line

BEGIN = 4  # prompts that the page opens with
HINT = (
    "Left the student's draft of each prompt with the oracle's score, right what is returned: the draft, or what the "
    "teacher made."
)


def collaboration_tab(gr: Any, answers: CollaborationAnswers, one: dict[str, Any]) -> None:
    """Inside a gradio Tab. one: the options of events that share one network."""
    with gr.Row():
        with gr.Column():
            begin = "\n".join(list(answers.attributes)[:BEGIN])
            told = f"one to a line, at most {MOST}"
            prompts = gr.Textbox(begin, label="Prompts", placeholder=told, lines=BEGIN, max_lines=MOST)
            with gr.Row():
                passes = gr.Number(answers.mean_passes, label="Passes per picture, on average", minimum=0, step=0.1)
                seed = gr.Number(0, label="Seed", precision=0, minimum=0)
            button = gr.Button("Draw", variant="primary")
            told = gr.Markdown(elem_classes="told")
        with gr.Column():
            gr.Markdown(HINT, elem_classes="hint")
            pictures = gr.Gallery(
                show_label=False, format="png", columns=2, buttons=[], allow_preview=False,
                elem_classes=["shown", "answer", "pairs"],
            )  # fmt: skip

    def draw(prompts: str, mean_passes: float | None, seed: float | None) -> tuple[Any, str]:
        shown, line, wrong = answers.draw(prompts, mean_passes, seed)
        return shown, shown_line(line, wrong)

    button.click(draw, [prompts, passes, seed], [pictures, told], api_name="draw", show_progress_on=pictures, **one)
