"""Show what image_check found: a table, facts, one line per fault, and a contact sheet."""

import sys
from collections import Counter
from pathlib import Path

import numpy as np

from datamodules.prepare.check_account import Report, SplitReport
from datamodules.prepare.saying import say
from fewstep.one_line import printable

QUANTILES = (0, 0.05, 0.5, 0.95, 1)
SHEET_COLUMNS, SHEET_SIDE = 10, 112  # pictures in a row, pixels of the longer side of one


def print_report(title: str, report: Report, decoded: bool, limit: int) -> None:
    """The table and facts go to stdout, faults to stderr; at most `limit` unreadable samples of a kind are named."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 1000  # a pipe has no edge to wrap at
    table = Table(box=box.ROUNDED if console.is_terminal else None, pad_edge=console.is_terminal)
    for name, justify in {"split": "left", "shards": "right", "samples": "right", "fields": "left"}.items():
        table.add_column(name, justify=justify)
    if decoded:
        for name, justify in {"pixels": "left", "captions": "right", "unreadable": "right"}.items():
            table.add_column(name, justify=justify)
    for split, about in report.splits.items():
        cells = [printable(split), str(about.shards), str(about.samples), fields(about)]
        bad = sum(about.unreadable.values())
        last = [Text(str(bad), "bold red" if bad else "")] if decoded else []
        table.add_row(*cells, *([pixels(about), str(len(about.captions))] if decoded else []), *last)
    console.print(printable(title), style="bold")
    console.print(table)
    for split, about in report.splits.items():
        if about.captions:
            lengths = np.quantile(about.captions, QUANTILES, method="inverted_cdf")
            numbers = " / ".join(map(str, lengths))
            what = f"{split} captions: {numbers} characters (least, 5 %, median, 95 %, most)"
            console.print(printable(what), style="dim")
    for fact in (*duplicate_facts(report), *several_facts(report)):
        console.print(fact)
    samples = sum(about.samples for about in report.splits.values())
    if report.sound:
        checked = "sizes, hashes, headers and every sample" if decoded else "sizes, hashes and headers, no sample read"
        console.print(f"sound: {samples} samples ({checked})", style="green")
    else:
        kinds = Counter(kind for kind, _, _ in report.unreadable)
        parts = [f"{len(report.faults)} faults of files"] if report.faults else []
        if kinds:
            names = ", ".join(f"{kind} {number}" for kind, number in kinds.most_common())
            parts.append(f"{len(report.unreadable)} of {samples} samples unreadable ({names})")
        console.print(f"not sound: {', '.join(parts)}", style="bold red")
    for line in fault_lines(report, limit):
        say(f"fault: {line}", sys.stderr)


def fields(about: SplitReport) -> str:
    """Names of the fields, with the number of samples that have one where not all do."""
    names = [name if n == about.samples else f"{name} ({n})" for name, n in sorted(about.fields.items())]
    return printable(", ".join(names[:8] + [f"and {len(names) - 8} more"] * (len(names) > 8)))


def pixels(about: SplitReport) -> str:
    """Width x height of the pictures, or their ranges."""
    if not about.sizes:
        return "-"
    sizes = np.array([*about.sizes])
    ranges = [
        f"{low}" if low == high else f"{low}-{high}" for low, high in zip(sizes.min(0), sizes.max(0), strict=True)
    ]
    return " x ".join(ranges)


def duplicate_facts(report: Report) -> list[str]:
    """How many pictures are equal to an earlier one, and how many of these belong to another split."""
    if not report.duplicates:
        return []
    across = [pair for pair in report.duplicates if len({where.partition("/")[0] for where in pair}) > 1]
    facts = [f"{len(report.duplicates)} pictures equal an earlier one, such as {' = '.join(report.duplicates[0])}"]
    if across:
        facts.append(f"{len(across)} of them are in two splits, such as {' = '.join(across[0])}")
    return [printable(fact) for fact in facts]


def several_facts(report: Report) -> list[str]:
    """A line for each split in which one of several pictures of a sample is chosen."""
    found = {split: about.several for split, about in report.splits.items() if about.several.samples}
    return [printable(f"{split}: {several}") for split, several in found.items()]


def fault_lines(report: Report, limit: int) -> list[str]:
    """One line per fault of a file, then the unreadable samples by kind."""
    lines, named = [*report.faults], Counter()
    for kind, where, detail in sorted(report.unreadable):
        named[kind] += 1
        if named[kind] <= limit:
            lines.append(f"{where}: {kind}{f': {detail}' if detail else ''}")
    return lines + [
        f"{kind}: {n - limit} more samples; --limit {n} names all" for kind, n in named.items() if n > limit
    ]


def write_sheet(path: Path, report: Report) -> None:
    """A PNG with pictures from all over the shards and their captions."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    from datamodules.prepare.folder_replacing import SHEET
    from fewstep.files.contact_sheet import Sample, contact_sheet

    if not report.examples:
        raise ValueError(f"{path}: no picture could be read for the sheet")
    pictures = [(caption, Image.fromarray(np.ascontiguousarray(pixels))) for caption, pixels in report.examples]
    samples = [Sample(caption, {"": picture}) for caption, picture in pictures]
    path.parent.mkdir(parents=True, exist_ok=True)
    mark = PngInfo()
    mark.add_text("Software", SHEET)  # by which a folder with it may be replaced
    contact_sheet(samples, SHEET_COLUMNS, SHEET_SIDE, lines=2, largest=SHEET_SIDE).save(path, "PNG", pnginfo=mark)
