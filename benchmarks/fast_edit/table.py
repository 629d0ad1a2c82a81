"""Tables and the plot of bench.py: what learning costs, what application costs, quality, strength against preservation.

    python benchmarks/fast_edit/table.py results/fast_edit.jsonl --plot docs/images/fast_edit_strength.png

Intervals are 95 % bootstrap ones over pairs of edit and seed.
"""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.fast_edit.accounting import Cost, learning_of, passes, reached, seconds, threshold
from benchmarks.fast_edit.methods import ENDS, FULL, OURS, OWN
from benchmarks.icd.results import read_rows
from fewstep.metrics.intervals import bootstrap_mean

QUALITY = {
    "asked": "asked attribute right",
    "kept": "others kept",
    "trained_direction": "direction, CLIP of the loss",
    "held_out_direction": "direction, held-out CLIP",
    "background": "L1 outside the true edit",
    "to_true_edit": "L1 to the true edit",
    "realism": "realism",
    "high_frequency": "HF ratio",
    "features": "reader's features kept",
}
Row = dict[str, Any]
Cell = tuple[str, int]  # edit and seed
Measured = dict[str, dict[Cell, Row]]  # by method


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--plot", type=Path, help="PNG to write")
    options = parser.parse_args(arguments)
    measured = by_method(read_rows(options.results))
    parts = [learning_table(measured), application_table(measured), quality_table(measured)]
    print("\n\n".join(part for part in parts if part))
    if options.plot:
        options.plot.parent.mkdir(parents=True, exist_ok=True)
        plot(measured, options.plot)


def by_method(rows: Sequence[Row]) -> Measured:
    measured: Measured = {}
    for row in rows:
        measured.setdefault(row["method"], {})[(row["edit"], row["seed"])] = row
    return measured


def learning_table(measured: Measured, reference: str = OURS) -> str:
    """Cost until the quality of accounting.threshold, and its ratio to that of the reference in the same cells."""
    if not {FULL, reference} <= measured.keys():
        return ""
    lines = [
        "| method | reached | seconds: cached | + encodings used | + all encodings | passes used | "
        f"ratio to {reference}: cached | + encodings used | + all encodings |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    ours = times_to_quality(measured, reference)
    for method in measured:
        found = times_to_quality(measured, method)
        if not any(row["learning"] for row in measured[method].values()):
            continue
        cells = [f"{len(found)} of {len(measured[method])}"]
        cells += [_median([spent[place] for spent, _ in found.values()], "{:.1f}") for place in range(3)]
        cells.append(_median([made.used for _, made in found.values()], "{:.0f}"))
        shared = [cell for cell in found if cell in ours]
        cells += [
            _ratio([found[c][0][place] for c in shared], [ours[c][0][place] for c in shared]) for place in range(3)
        ]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def times_to_quality(measured: Measured, method: str) -> dict[Cell, tuple[Cost, Cost]]:
    """(seconds, passes) of the cells in which a method reached what DiffusionCLIP's full mode sets."""
    found = {}
    for cell, row in measured[method].items():
        learning, full = learning_of(row), learning_of(measured[FULL][cell]) if cell in measured[FULL] else None
        if learning is None or full is None:
            continue
        point = reached(learning, threshold(full))
        if point is not None:
            found[cell] = (seconds(learning, point), passes(learning, point))
    return found


def application_table(measured: Measured) -> str:
    """Every way of application of every method at strength 1: its cost for a picture, and what it reaches."""
    shown = ("asked", "kept", "background", "realism")
    lines = [f"| method | application | passes | ms a picture | {' | '.join(QUALITY[name] for name in shown)} |"]
    lines.append("|---|---|--:|--:|" + "--:|" * len(shown))
    for method, cells in measured.items():
        if method in ENDS:
            continue
        for way in dict.fromkeys(point["application"] for row in cells.values() for point in row["points"]):
            points = _points(cells, way)
            spent = _median([1000 * point["seconds"] for point in points], "{:.1f}")
            values = [_mean([point["quality"][name] for point in points]) for name in shown]
            lines.append(f"| {method} | {way} | {points[0]['passes']} | {spent} | {' | '.join(values)} |")
    return "\n".join(lines)


def quality_table(measured: Measured) -> str:
    """The whole quality vector at strength 1, applied in each method's own way."""
    lines = [f"| method | {' | '.join(QUALITY.values())} |", f"|---|{'--:|' * len(QUALITY)}"]
    for method, cells in measured.items():
        points = _points(cells, OWN)
        values = [_mean([point["quality"][name] for point in points]) for name in QUALITY]
        lines.append(f"| {method} | {' | '.join(values)} |")
    return "\n".join(lines)


def plot(measured: Measured, target: Path) -> None:
    """One line for each method, its points the strengths, means over edits and seeds; up and to the right is better."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as pyplot

    shown = {
        "kept": "share of the other attributes kept",
        "to_true_edit": "L1 to the true edit (falling)",
        "background": "L1 outside the true edit (falling)",
    }
    figure, axes = pyplot.subplots(1, len(shown), figsize=(13, 4.4))
    methods = [name for name in measured if name not in ENDS]
    for axis, (name, label) in zip(axes, shown.items(), strict=True):
        for end, colour in zip(ENDS, ("grey", "black"), strict=True):
            if end in measured:
                values = [point["quality"][name] for point in _points(measured[end], OWN)]
                axis.axhline(sum(values) / len(values), linestyle=":", color=colour, label=end)
        for number, method in enumerate(methods):
            x, y = zip(*curve(measured[method], name), strict=True)
            style = "-" if method == OURS else "--"
            axis.plot(x, y, marker="o", markersize=5, label=method, linestyle=style, color=f"C{number}")
        axis.set_xlabel("share of edits with the asked attribute")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    for axis in axes[1:]:
        axis.invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8)
    figure.tight_layout(rect=(0, 0.14, 1, 1))
    figure.savefig(target, dpi=110)
    pyplot.close(figure)


def curve(cells: dict[Cell, Row], name: str) -> list[tuple[float, float]]:
    """(share with the asked attribute, value) for each strength, means over cells."""
    strengths = sorted({point["strength"] for row in cells.values() for point in row["points"]})
    found = []
    for strength in strengths:
        points = _points(cells, OWN, strength)
        found.append(tuple(sum(p["quality"][key] for p in points) / len(points) for key in ("asked", name)))
    return found


def _points(cells: dict[Cell, Row], way: str, strength: float = 1.0) -> list[Row]:
    rows = cells.values()
    return [p for row in rows for p in row["points"] if p["application"] == way and p["strength"] == strength]


def _mean(values: Sequence[float]) -> str:
    return _interval(values, lambda value: value, "{:.3f}")


def _ratio(values: Sequence[float], others: Sequence[float]) -> str:
    """Geometric mean of ratios in the same cell, with its interval."""
    return _interval([math.log(a / b) for a, b in zip(values, others, strict=True)], math.exp, "{:.2f}")


def _interval(values: Sequence[float], back: Callable[[float], float], form: str) -> str:
    if not values:
        return ""
    mean = form.format(back(sum(values) / len(values)))
    if len(values) < 2:
        return mean
    low, high = bootstrap_mean(torch.tensor(values, dtype=torch.float64))
    return f"{mean} [{form.format(back(low))}, {form.format(back(high))}]"


def _median(values: Sequence[float], form: str) -> str:
    """With the range."""
    if not values:
        return ""
    middle = torch.tensor(values, dtype=torch.float64).quantile(0.5)
    return f"{form.format(middle)} [{form.format(min(values))}, {form.format(max(values))}]"


if __name__ == "__main__":
    main()
