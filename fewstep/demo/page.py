"""The page of the demo: tabs over a pair of students, over edits of files, and over a collaboration."""

from collections.abc import Sequence
from typing import Any

from fewstep.demo.collaboration_answers import CollaborationAnswers
from fewstep.demo.collaboration_tab import collaboration_tab
from fewstep.demo.editing_tabs import ONE, editing_tabs
from fewstep.demo.examples import Example
from fewstep.demo.fast_edit_answers import FastEditAnswers
from fewstep.demo.fast_edit_tab import fast_edit_tab
from fewstep.demo.style import CSS
from fewstep.icd.pair import InvertibleConsistency


def launch(
    pair: InvertibleConsistency | None,
    device: str = "cpu",
    host: str = "127.0.0.1",
    port: int | None = None,
    share: bool = False,
    examples: Sequence[Example] = (),
    together: CollaborationAnswers | None = None,
    edits: FastEditAnswers | None = None,
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
    page = build(pair, device, examples, together, edits)
    options = {"theme": theme, "css": CSS, "footer_links": [], "ssr_mode": False, "max_file_size": "64mb"}
    options |= {"server_name": host, "server_port": port, "share": share, "quiet": True, "prevent_thread_lock": True}
    _, local, public = page.launch(**options)
    return page, public or local


def build(
    pair: InvertibleConsistency | None,
    device: str = "cpu",
    examples: Sequence[Example] = (),
    together: CollaborationAnswers | None = None,
    edits: FastEditAnswers | None = None,
) -> Any:
    """The gradio Blocks, not yet launched. Of examples the first is filled in; a click on another fills that in."""
    import gradio as gr

    with gr.Blocks(title="fewstep", analytics_enabled=False) as page:
        if pair is not None:
            editing_tabs(gr, pair, device, examples)
        if edits is not None:
            with gr.Tab("Learnt edits", id="fast_edit"):
                fast_edit_tab(gr, edits, examples, ONE)
        if together is not None:
            with gr.Tab("Collaboration", id="collaboration"):
                collaboration_tab(gr, together, ONE)
    return page
