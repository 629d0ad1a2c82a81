"""What a comparison of editors leaves behind: one table with a line for each setting, one front, a sheet, the numbers.

Runs are those of rows.py; metrics.json and rows.json are those of write.py.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from commands.report.edit_front import draw_front
from commands.report.rows import metric_rows
from commands.report.write import numbers
from fewstep.editors.edits import Edits
from fewstep.files.contact_sheet import Sample, contact_sheet
from fewstep.files.durable import replace_file
from fewstep.files.pictures import as_png

SHOWN = 8  # edits on the sheet
MOST_RUNS = 12  # on the sheet
LEAST_WIDTH = 160  # characters of the table where nobody looks at a terminal
Run = dict[str, Any]


def write(
    out: Path, runs: Sequence[Run], labels: Sequence[str], pictures: Mapping[str, Tensor], edits: Edits, command: str
) -> None:
    """Each file whole or not at all, metrics.json last. pictures: as in commands.evaluate.edits.sheet_pictures."""
    contents: dict[str, bytes] = {}
    front = draw_front(runs)
    if front is not None:
        contents["front.svg"] = front.encode()
    contents["edits.png"] = as_png(sheet(pictures, edits))
    contents["report.md"] = markdown(runs, labels, command, front is not None).encode()
    contents |= {name: text.encode() for name, text in numbers(runs, labels).items()}
    out.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        replace_file(out / name, content)


def markdown(runs: Sequence[Run], labels: Sequence[str], command: str, with_front: bool) -> str:
    rows = metric_rows(runs)
    num = runs[0]["sampling"]["samples"]
    lines = ["# Editors compared", "", f"{num} edits; means with half the width of their 95 % intervals; ↓ lower,"]
    lines[-1] += " ↑ higher is better. NFE: rows through the network for each picture."
    lines += ["", *_table(["editor", "NFE", *(f"{row['title']}{row['arrow']}" for row in rows)], _cells(runs, labels))]
    if apart := differences(runs, labels):
        first = runs[0]["settings"]["editor"]
        lines += ["", f"Difference from {first} at the same w and tau, picture by picture, with its 95 % interval:", ""]
        lines += _table(["editor", *(row["title"] for row in rows)], apart)
    lines += ["", "![Strength against preservation](front.svg)"] if with_front else []
    lines += ["", "![The first edits](edits.png)", "", "```", command, "```", ""]
    return "\n".join(lines)


def _cells(runs: Sequence[Run], labels: Sequence[str]) -> list[list[str]]:
    rows = metric_rows(runs)
    return [
        [label, f"{run['sampling']['nfe']:g}", *(_value(row["cells"][number]) for row in rows)]
        for number, (run, label) in enumerate(zip(runs, labels, strict=True))
    ]


def _value(cell: Mapping[str, Any]) -> str:
    return f"{cell['text']} {cell['margin']}".strip()


def differences(runs: Sequence[Run], labels: Sequence[str]) -> list[list[str]]:
    """A line for each run of another editor than the first that has a run of the first at its w and tau."""
    first = runs[0]["settings"]["editor"]
    own = {(run["settings"]["w"], run["settings"]["tau"]): run for run in runs if run["settings"]["editor"] == first}
    names = [row["name"] for row in metric_rows(runs)]
    lines = []
    for run, label in zip(runs, labels, strict=True):
        base = own.get((run["settings"]["w"], run["settings"]["tau"]))
        if base is None or base is run or run["settings"]["editor"] == first:
            continue
        found = {row["name"]: row["cells"][1]["apart"] for row in metric_rows([base, run])}
        lines.append([label, *(each["text"] if (each := found.get(name)) else "–" for name in names)])
    return lines


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    rule = "|---|" + "--:|" * (len(head) - 1)
    return [f"| {' | '.join(head)} |", rule, *(f"| {' | '.join(line)} |" for line in lines)]


def print_table(runs: Sequence[Run], labels: Sequence[str]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("editor", no_wrap=True)
    for title in ("NFE", *(row["name"].partition("/")[2] + row["arrow"] for row in metric_rows(runs))):
        table.add_column(title.replace("_", " "), justify="right", overflow="fold", min_width=7)
    for line in _cells(runs, labels):
        table.add_row(*(cell.replace(" ±", "\n±") for cell in line))
    Console(width=max(Console().width, LEAST_WIDTH)).print(table)


def sheet(pictures: Mapping[str, Tensor], edits: Edits) -> Image.Image:
    """Each edit as a column: picture, runs, true edit."""
    ends = ("picture", "true edit")
    runs = _some([name for name in pictures if name not in ends])
    shown = {name: pictures[name] for name in (ends[0], *runs, ends[1]) if name in pictures}
    samples = [
        Sample(edits.target[row], {name: _picture(images[row]) for name, images in shown.items()})
        for row in range(len(pictures[ends[0]]))
    ]
    return contact_sheet(samples, SHOWN, lines=4, largest=256)


def _some(runs: list[str]) -> list[str]:
    """At most MOST_RUNS, evenly over all editors and settings."""
    if len(runs) <= MOST_RUNS:
        return runs
    return [runs[(2 * place + 1) * len(runs) // (2 * MOST_RUNS)] for place in range(MOST_RUNS)]


def _picture(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
