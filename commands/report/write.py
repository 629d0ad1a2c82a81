"""What an evaluation leaves behind: metrics.json, report.md, report.html and a table on the terminal.

The runs that all functions take are those of rows.py.
"""

import base64
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from commands.report.page import PAGE
from commands.report.plots import curves, trade_offs
from commands.report.rows import COLOURS, metric_rows, run_labels, whiskers
from fewstep.files.durable import replace_file
from fewstep.files.places import require_writable
from fewstep.files.plain_json import read_json

FILES = ("metrics.json", "report.md", "report.html")


def check_out(out: Path, checkpoints: Sequence[str], overwrite: bool) -> None:
    """ValueError if the report could not be written to `out`, or would replace one about other checkpoints unasked."""
    require_writable(out)
    written = (*(out / name for name in FILES), *out.glob("samples-*.png"))
    for folder in (path for path in written if path.is_dir()):
        raise ValueError(f"{folder} is a folder, where the report's {folder.name} would be; name another --out")
    previous = out / "metrics.json"
    if overwrite or not previous.exists():
        return
    try:
        known = [run["checkpoint"] for run in read_json(previous)["runs"]]
    except (OSError, ValueError, KeyError, TypeError):
        known = ["something else"]
    if known != list(checkpoints):
        raise ValueError(f"{out} holds a report about {', '.join(known)}; choose another folder or add --overwrite")


def write(out: Path, runs: list[dict[str, Any]], pictures: Sequence[bytes | None], command: str) -> None:
    """Write the report's files into `out`, each whole or not at all, metrics.json last: where it is, all is.

    pictures: one PNG for each run, or None.
    """
    from jinja2 import Environment

    names = run_labels(runs)
    rows = metric_rows(runs)
    plain = [re.sub(r"[^\w.-]+", "_", name) for name in names]
    files = [f"samples-{name}.png" if p else None for name, p in zip(plain, pictures, strict=True)]
    embedded = [base64.b64encode(p).decode() if p else None for p in pictures]
    shown = [
        run | {"label": name, "colour": COLOURS[i % len(COLOURS)], "picture": embedded[i], "file": files[i]}
        for i, (run, name) in enumerate(zip(runs, names, strict=True))
    ]
    page = {"runs": shown, "rows": rows, "plots": [whiskers(r, names) for r in rows], "command": command}
    page |= {"curves": curves(rows, runs), "trade_offs": trade_offs(rows, runs, names)}
    page |= {"protocols": _shared_protocols(runs, names), "floors": any(row["floor"] is not None for row in rows)}
    page |= {"same_data": all(run["data"] == runs[0]["data"] for run in runs), "dumps": json.dumps}
    html = Environment(autoescape=True, trim_blocks=True).from_string(PAGE).render(page)
    contents = {"report.html": html, "report.md": markdown(shown, rows, command)}
    contents["metrics.json"] = json.dumps({"schema": 1, "runs": runs}, indent=1, allow_nan=False)
    out.mkdir(parents=True, exist_ok=True)
    for file, picture in zip(files, pictures, strict=True):
        if file and picture:
            replace_file(out / file, picture)
    for file, text in contents.items():
        replace_file(out / file, text.encode())


def _shared_protocols(runs: Sequence[dict[str, Any]], names: Sequence[str]) -> list[dict[str, str]]:
    """How each number was taken: {"metric", "runs", "text"}, once for the runs that took it in the same way."""
    groups: dict[tuple[str, str], list[str]] = {}
    for run, name in zip(runs, names, strict=True):
        for metric, protocol in run.get("protocol", {}).items():
            text = ", ".join(f"{k} {_flat(v)}" for k, v in protocol.items() if v is not None)
            groups.setdefault((metric, text), []).append(name)
    return [
        {"metric": metric, "runs": "" if len(members) == len(runs) else "; ".join(members), "text": text}
        for (metric, text), members in groups.items()
    ]


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{k} {_flat(v)}" for k, v in value.items()) + ")"
    return "/".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def markdown(runs: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]], command: str) -> str:
    lines = ["# Evaluation", "", "95 % intervals in brackets; ↓ lower, ↑ higher is better; bold is best.", ""]
    lines += [f"| metric | {' | '.join(run['label'] for run in runs)} | floor |", "|---|" + "--:|" * (len(runs) + 1)]
    for row in rows:
        cells = [
            (f"**{c['text']}**" if c["best"] else c["text"]) + (f" [{c['interval']}]" if c["interval"] else "")
            for c in row["cells"]
        ]
        lines.append(f"| {row['title']}{row['arrow']} | {' | '.join(cells)} | {row['floor_text']} |")
    lines += [""]
    if any(row["floor"] is not None for row in rows):
        lines += ["The floor is what a perfect sampler scores on average on these finite samples.", ""]
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
    for name in run_labels(runs):
        table.add_column(escape(name), justify="right", overflow="fold")
    rows = metric_rows(runs)
    floors = any(row["floor_text"] for row in rows)
    if floors:
        table.add_column("floor", justify="right", style="dim")
    for row in rows:
        cells = [
            (f"[bold]{c['text']}[/]" if c["best"] else c["text"]) + f"\n[dim]{c['margin']}[/]" * bool(c["margin"])
            for c in row["cells"]
        ]
        table.add_row(row["name"], *cells, *([row["floor_text"]] if floors else []))
    Console().print(table)
