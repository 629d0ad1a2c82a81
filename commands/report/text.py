"""The tables of a report as text: Markdown for a file, rich for a terminal."""

from collections.abc import Sequence
from typing import Any

from commands.report.names import run_labels
from commands.report.page import report_tables


def markdown(runs: Sequence[dict[str, Any]], tables: Sequence[dict[str, Any]], command: str) -> str:
    lines = ["# Evaluation", "", "95 % intervals in brackets; ↓ lower, ↑ higher is better.", ""]
    if len(runs) > 1:
        lines[2] += " Bold is better than every other beyond the interval of the difference."
    for table in tables:
        lines += [f"## {table['title']}", ""] if len(tables) > 1 else []
        lines += _markdown_table(table)
    if any(table["floors"] for table in tables):
        lines += ["The floor is what a perfect sampler scores on average on these finite samples.", ""]
    for run in runs:
        lines += [f"![samples of {run['label']}]({run['file']})", ""] if run["file"] else []
    return "\n".join([*lines, "```", command, "```", ""])


def _markdown_table(table: dict[str, Any]) -> list[str]:
    """Values, and below them the differences from the first run."""
    names, rows = table["names"], table["rows"]
    lines = [f"| metric | {' | '.join(names)} | floor |", "|---|" + "--:|" * (len(names) + 1)]
    for row in rows:
        cells = [
            (f"**{c['text']}**" if c["best"] else c["text"]) + (f" [{c['interval']}]" if c["interval"] else "")
            for c in row["cells"]
        ]
        lines.append(f"| {row['title']}{row['arrow']} | {' | '.join(cells)} | {row['floor_text']} |")
    apart = [row for row in rows if any(cell["apart"] for cell in row["cells"])]
    if apart:
        lines += ["", f"| difference from {names[0]} | {' | '.join(names[1:])} |", "|---|" + "--:|" * (len(names) - 1)]
        for row in apart:
            cells = [_difference(cell["apart"]) for cell in row["cells"][1:]]
            lines.append(f"| {row['title']}{row['arrow']} | {' | '.join(cells)} |")
    return [*lines, ""]


def _difference(apart: dict[str, Any] | None) -> str:
    if apart is None:
        return "–"
    return apart["text"] + ("" if apart["paired"] else ", rows not paired")


def print_table(runs: Sequence[dict[str, Any]]) -> None:
    """The metrics on the terminal, one column per run, with half the width of their intervals; a table a task."""
    from rich.console import Console

    named = [run | {"label": name} for run, name in zip(runs, run_labels(runs), strict=True)]
    for table in (tables := report_tables(named)):
        Console().print(_rich_table(table, table["title"] if len(tables) > 1 else None))


def _rich_table(told: dict[str, Any], title: str | None) -> Any:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, title=title and escape(title), title_justify="left")
    table.add_column("metric", no_wrap=True)
    for name in told["names"]:
        table.add_column(escape(name), justify="right", overflow="fold")
    if told["floors"]:
        table.add_column("floor", justify="right", style="dim")
    for row in told["rows"]:
        cells = [
            (f"[bold]{c['text']}[/]" if c["best"] else c["text"]) + f"\n[dim]{c['margin']}[/]" * bool(c["margin"])
            for c in row["cells"]
        ]
        table.add_row(row["name"], *cells, *([row["floor_text"]] if told["floors"] else []))
    return table
