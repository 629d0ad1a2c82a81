"""The page of a report: one HTML file, no script, no outside resource; page.html is its template."""

import json
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from commands.report.comparison import by_task, task
from commands.report.drawing import draw, whiskers
from commands.report.names import shorten
from commands.report.plots import Plot, curves, trade_offs
from commands.report.rows import metric_rows

TEMPLATE = Path(__file__).with_name("page.html")
FRONT = "Dashed: the Pareto front, the runs that no other beats in both; grey: its 95 % intervals."


def report_tables(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One for each task: {"title", "names", "numbers", "runs", "rows" (rows.py), "floors"}. runs: with their labels."""
    tables = []
    for numbers in by_task(runs):
        mine = [runs[i] for i in numbers]
        table = {"title": _title(mine[0]), "names": [run["label"] for run in mine], "numbers": numbers, "runs": mine}
        table["rows"] = metric_rows(mine)
        tables.append(table | {"floors": any(row["floor"] is not None for row in table["rows"])})
    return tables


def _title(run: dict[str, Any]) -> str:
    """The data that a run was tested on, in a few words."""
    data = task(run)
    data = data.get("init_args", data) if isinstance(data, dict) else {}
    place = data.get("test_path") or data.get("path") or data.get("prompts")
    return f"Tested on {shorten(str(place), 60)}" if place else "Tested on other data"


def page(runs: Sequence[dict[str, Any]], tables: Sequence[dict[str, Any]], command: str) -> str:
    from jinja2 import Environment

    def drawn(plots: Iterable[Plot]) -> list[tuple[Plot, str]]:
        return [(plot, draw(plot)) for plot in plots]

    for table in tables:
        for row in table["rows"]:
            row["drawing"] = whiskers(row, table["names"], table["numbers"])
    along = chain(*(curves(t["rows"], t["runs"], t["numbers"]) for t in tables))
    against = chain(*(trade_offs(t["rows"], t["runs"], t["names"], t["numbers"]) for t in tables))
    drawings = [("Along the steps", "", drawn(along)), ("Quality against its cost", FRONT, drawn(against))]
    apart = [cell["apart"] for table in tables for row in table["rows"] for cell in row["cells"] if cell["apart"]]
    told = {"runs": runs, "tables": tables, "drawings": drawings, "command": command, "dumps": json.dumps}
    told |= {"apart": bool(apart), "unpaired": not all(each["paired"] for each in apart)}
    told |= {"protocols": _shared_protocols(runs), "floors": any(table["floors"] for table in tables)}
    template = Environment(autoescape=True, trim_blocks=True).from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(told)


def _shared_protocols(runs: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """How each number was taken: {"metric", "runs", "text"}, once for the runs that took it in the same way."""
    groups: dict[tuple[str, str], list[str]] = {}
    for run in runs:
        for metric, protocol in run.get("protocol", {}).items():
            text = ", ".join(f"{k} {_flat(v)}" for k, v in protocol.items() if v is not None)
            groups.setdefault((metric, text), []).append(run["label"])
    return [
        {"metric": metric, "runs": "" if len(members) == len(runs) else "; ".join(members), "text": text}
        for (metric, text), members in groups.items()
    ]


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{k} {_flat(v)}" for k, v in value.items()) + ")"
    return "/".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
