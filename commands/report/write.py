"""What an evaluation leaves behind: metrics.json, report.md, report.html and a table on the terminal.

The runs that all functions take are those of rows.py. rows.json: what their numbers are made of, row by row.
"""

import base64
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from commands.report.drawing import colour
from commands.report.names import run_labels
from commands.report.page import page, report_tables
from commands.report.text import markdown
from fewstep.files.durable import replace_file
from fewstep.files.places import require_writable
from fewstep.files.plain_json import read_json

FILES = ("metrics.json", "rows.json", "report.md", "report.html")
BEHIND = ("rows", "influence")  # of a run, what its numbers are made of


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
    names = run_labels(runs)
    plain = [re.sub(r"[^\w.-]+", "_", name) for name in names]
    files = [f"samples-{name}.png" if p else None for name, p in zip(plain, pictures, strict=True)]
    embedded = [base64.b64encode(p).decode() if p else None for p in pictures]
    shown = [
        run | {"label": name, "colour": colour(i), "picture": embedded[i], "file": files[i]}
        for i, (run, name) in enumerate(zip(runs, names, strict=True))
    ]
    tables = report_tables(shown)
    contents = {"report.html": page(shown, tables, command), "report.md": markdown(shown, tables, command)}
    contents |= numbers(runs, names)
    out.mkdir(parents=True, exist_ok=True)
    for file, picture in zip(files, pictures, strict=True):
        if file and picture:
            replace_file(out / file, picture)
    for file, text in contents.items():
        replace_file(out / file, text.encode())


def numbers(runs: Sequence[dict[str, Any]], labels: Sequence[str]) -> dict[str, str]:
    """{file: text} of rows.json, if anything is known of rows, and of metrics.json."""
    contents = {}
    if any(run.get(kind) for run in runs for kind in BEHIND):
        pairs = zip(runs, labels, strict=True)
        behind = [{"run": label} | {kind: run.get(kind, {}) for kind in BEHIND} for run, label in pairs]
        contents["rows.json"] = _json({"schema": 1, "runs": behind})
    told = [{name: value for name, value in run.items() if name not in BEHIND} for run in runs]
    return contents | {"metrics.json": _json({"schema": 1, "runs": told}, indent=1)}


def _json(content: Any, indent: int | None = None) -> str:
    return json.dumps(content, indent=indent, allow_nan=False)
