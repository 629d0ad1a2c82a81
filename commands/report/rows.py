"""Runs of one task as the rows of a table: values, intervals, what is best, and how far each is from the first.

A *run* is one measurement as metrics.json stores it: {"checkpoint", "config", "data", "metrics": {name: value},
"intervals": {name: [low, high]}, "seconds", "device", "versions"} and, since images are measured, "protocol": {name:
how it was taken}, "sampling": {"seconds_per_sample", "nfe", "steps", ...}, "step" (of training), "seed" and "settings"
(names.py). While it is reported it also has what comparison.py tells of.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from callbacks.metrics.catalogue import BESIDE, describe
from commands.report.comparison import difference

ARROWS = {"lower": " ↓", "higher": " ↑", "": ""}


def metric_rows(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per metric of any run: title, note, better, floor (None if unknown or not shared) and a cell per run.

    A cell has value, low, high (floats or None), texts rounded to the interval's second digit, `best`, where it is
    better than every other by more than chance, and `apart`, its difference from the first run.
    """
    everything = {name for run in runs for name in run["metrics"]}
    names = [name for name in everything if not any(name.removesuffix(b) in everything - {name} for b in BESIDE)]
    return [_metric_row(name, runs) for name in sorted(names, key=lambda name: (describe(name)[0], name))]


def _metric_row(name: str, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    _, (title, note, unit, better) = describe(name)
    title += f" ({unit})" if unit else ""
    cells = []
    for run in runs:
        low, high = run["intervals"].get(name) or (None, None)
        std = run["metrics"].get(f"{name}_std")
        cells.append({"value": run["metrics"].get(name), "low": low, "high": high, "std": std})
    known = [c["value"] for c in cells if c["value"] is not None]
    floors = {run["metrics"].get(f"{name}_floor") for run in runs}
    floor = floors.pop() if len(floors) == 1 else None
    widths = [c["high"] - c["low"] for c in cells if c["low"] is not None]
    digits = _decimals(known, widths or [c["std"] for c in cells if c["std"]])
    best = _best(name, runs, better)
    for number, cell in enumerate(cells):
        cell["best"] = number == best
        cell["text"] = _text(cell["value"], digits)
        cell["interval"] = cell["margin"] = ""
        if cell["low"] is not None:
            cell["interval"] = f"{_text(cell['low'], digits)} … {_text(cell['high'], digits)}"
            cell["margin"] = f"±{_text((cell['high'] - cell['low']) / 2, digits)}"
        elif cell["std"] is not None:
            cell["interval"] = f"std of subsets {_text(cell['std'], digits)}"
        cell["apart"] = _apart(name, runs[0], runs[number]) if number else None
    row = {"name": name, "title": title, "note": note, "better": better, "arrow": ARROWS[better], "cells": cells}
    return row | {"floor": floor, "floor_text": _text(floor, digits) if floor is not None else ""}


def _best(name: str, runs: Sequence[Mapping[str, Any]], better: str) -> int | None:
    """The run that is better than every other beyond the interval of their difference; None where there is none."""
    known = [n for n, run in enumerate(runs) if run["metrics"].get(name) is not None]
    if not better or len(known) < 2:
        return None
    sign = 1 if better == "lower" else -1
    first, *others = sorted(known, key=lambda n: sign * runs[n]["metrics"][name])
    apart = [difference(runs[first], runs[n], name) for n in others]
    return first if all(each is not None and each.clear for each in apart) else None


def _apart(name: str, first: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, Any] | None:
    found = difference(run, first, name)
    if found is None:
        return None
    digits = _decimals([found.value], [found.high - found.low])
    signed = [_text(value, digits, sign=True) for value in found[:3]]
    return {"text": f"{signed[0]} [{signed[1]} … {signed[2]}]", "certain": found.clear, "paired": found.paired}


def _decimals(values: Sequence[float], widths: Sequence[float]) -> int:
    """Decimals that show two digits of the narrowest interval, or four of the largest value where there is none."""
    narrow = min((w for w in widths if w > 0), default=0.0)
    if narrow:
        return min(max(1 - math.floor(math.log10(narrow)), 0), 6)
    largest = max((abs(v) for v in values), default=0.0)
    return min(max(3 - math.floor(math.log10(largest)), 0), 6) if largest else 3


def _text(value: float | None, digits: int, sign: bool = False) -> str:
    return "–" if value is None else f"{value:{'+' if sign else ''}.{digits}f}".replace("-", "−")
