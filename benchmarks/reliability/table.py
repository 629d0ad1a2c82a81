"""What the trials have shown, kept as lines of JSON, and the table of it."""

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.reliability.matrix import MATRIX, Row

HEADER = ("fault", "promise", "kept", "broken at most", "slowest", "seen")
CONFIDENCE = 0.95
Results = dict[str, list[dict[str, Any]]]  # name of the row -> its trials


def read(path: Path) -> Results:
    results: Results = defaultdict(list)
    for line in path.read_text().splitlines() if path.exists() else []:
        result = json.loads(line)
        results[result["row"]].append(result)
    return results


def write(path: Path, result: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(result) + "\n")


def largest_rate(broken: int, trials: int) -> float:
    """One-sided upper bound of the rate of broken promises. Source: Clopper and Pearson (1934)."""
    from scipy.stats import beta

    return 1.0 if broken == trials else float(beta.ppf(CONFIDENCE, broken + 1, trials - broken))


def lines(results: Results) -> Iterable[tuple[str, ...]]:
    """One per row of the matrix that was tried; of its trials the first broken one, else the last, is told."""
    for row in MATRIX:
        if trials := results.get(row.name):
            yield _line(row, trials)


def _line(row: Row, trials: list[dict[str, Any]]) -> tuple[str, ...]:
    broken = [trial for trial in trials if not trial["kept"]]
    bound = f"{100 * largest_rate(len(broken), len(trials)):.0f} %" if row.chance else ""
    told = (broken or trials[-1:])[0]["detail"]
    slowest = max(trial["seconds"] for trial in trials)
    return row.name, row.promise, f"{len(trials) - len(broken)}/{len(trials)}", bound, f"{slowest:.0f} s", told


def rich_table(results: Results) -> Table:
    table = Table(*HEADER, title=f"Promises under faults; bounds at {100 * CONFIDENCE:.0f} %")
    for line in lines(results):
        kept, of = line[2].split("/")
        table.add_row(*line, style=None if kept == of else "bold red")
    return table


def markdown(results: Results) -> str:
    rows = [HEADER, ("---",) * len(HEADER), *([cell.replace("|", "/") for cell in line] for line in lines(results))]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
