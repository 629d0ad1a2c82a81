"""What an evaluation leaves behind: metrics.json, report.md, report.html and a table on the terminal.

The runs that all functions take are those of report_rows.py.
"""

import base64
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from callbacks.report_page import PAGE
from callbacks.report_rows import COLOURS, labels, metric_rows, whiskers


def check_out(out: Path, checkpoints: Sequence[str], overwrite: bool) -> None:
    """Errors: ValueError if `out` is a file or, without `overwrite`, holds a report about other checkpoints."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file; name a folder")
    previous = out / "metrics.json"
    if overwrite or not previous.exists():
        return
    try:
        known = [run["checkpoint"] for run in json.loads(previous.read_text())["runs"]]
    except (ValueError, KeyError, TypeError):
        known = ["something else"]
    if known != list(checkpoints):
        raise ValueError(f"{out} holds a report about {', '.join(known)}; choose another folder or add --overwrite")


def write(out: Path, runs: list[dict[str, Any]], pictures: Sequence[bytes | None], command: str) -> None:
    """Write the report's files into `out`, each whole or not at all, metrics.json last: where it is, all is.

    pictures: one PNG for each run, or None.
    """
    from jinja2 import Environment

    names = labels([run["checkpoint"] for run in runs])
    rows = metric_rows(runs)
    files = [f"samples-{name.replace('/', '_')}.png" if p else None for name, p in zip(names, pictures, strict=True)]
    embedded = [base64.b64encode(p).decode() if p else None for p in pictures]
    shown = [
        run | {"label": name, "colour": COLOURS[i % len(COLOURS)], "picture": embedded[i], "file": files[i]}
        for i, (run, name) in enumerate(zip(runs, names, strict=True))
    ]
    page = {"runs": shown, "rows": rows, "plots": [whiskers(r, names) for r in rows], "command": command}
    page |= {"same_data": all(run["data"] == runs[0]["data"] for run in runs), "dumps": json.dumps}
    html = Environment(autoescape=True, trim_blocks=True).from_string(PAGE).render(page)
    contents = {"report.html": html, "report.md": markdown(shown, rows, command)}
    contents["metrics.json"] = json.dumps({"schema": 1, "runs": runs}, indent=1, allow_nan=False)
    out.mkdir(parents=True, exist_ok=True)
    for file, picture in zip(files, pictures, strict=True):
        if file and picture:
            _replace(out / file, picture)
    for file, text in contents.items():
        _replace(out / file, text.encode())


def markdown(runs: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]], command: str) -> str:
    lines = ["# Evaluation", "", "95 % intervals in brackets; lower is better; bold is best.", ""]
    lines += [f"| metric | {' | '.join(run['label'] for run in runs)} | floor |", "|---|" + "--:|" * (len(runs) + 1)]
    for row in rows:
        cells = [
            (f"**{c['text']}**" if c["best"] else c["text"]) + (f" [{c['interval']}]" if c["interval"] else "")
            for c in row["cells"]
        ]
        lines.append(f"| {row['title']} | {' | '.join(cells)} | {row['floor_text']} |")
    lines += ["", "The floor is what a perfect sampler scores on average on these finite samples.", ""]
    for run in runs:
        lines += [f"![samples of {run['label']}]({run['file']})", ""] if run["file"] else []
    return "\n".join([*lines, "```", command, "```", ""])


def print_table(runs: Sequence[dict[str, Any]]) -> None:
    """The metrics on the terminal, one column per checkpoint, with half the width of their intervals."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("metric", no_wrap=True)
    for name in labels([run["checkpoint"] for run in runs]):
        table.add_column(escape(name), justify="right", overflow="fold")
    table.add_column("floor", justify="right", style="dim")
    for row in metric_rows(runs):
        cells = [
            (f"[bold]{c['text']}[/]" if c["best"] else c["text"]) + f"\n[dim]{c['margin']}[/]" * bool(c["margin"])
            for c in row["cells"]
        ]
        table.add_row(row["name"], *cells, row["floor_text"])
    Console().print(table)


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.tmp.{os.getpid()}")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
