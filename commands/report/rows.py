"""The numbers of several evaluations side by side, rounded, compared and laid out for tables and plots.

A *run* is one measurement as metrics.json stores it: {"checkpoint", "config", "data", "metrics": {name: value},
"intervals": {name: [low, high]}, "seconds", "device", "versions"} and, since images are measured, "protocol": {name:
how it was taken}, "sampling": {"seconds_per_sample", "nfe", "steps", ...}, "step" (of training) and "seed".
"""

import math
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from callbacks.metrics.catalogue import BESIDE, describe

ARROWS = {"lower": " ↓", "higher": " ↑", "": ""}
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
LABEL_WIDTH, PLOT_WIDTH, ROW_HEIGHT = 190, 330, 26  # of a whisker plot, in pixels


def run_labels(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Short names for runs: those of their checkpoints, with the inference steps where these alone tell them apart."""
    names = labels([run["checkpoint"] for run in runs])
    steps = [run.get("sampling", {}).get("steps") for run in runs]
    pairs = zip(names, steps, strict=True)
    return [f"{n}, {s} step{'s' * (s > 1)}" if s and names.count(n) > 1 else n for n, s in pairs]


def labels(checkpoints: Sequence[str]) -> list[str]:
    """Short names for checkpoint paths: what is left without the folders and the file name that all of them share."""
    absolute = [Path(str(Path(c).absolute()).removesuffix(".ckpt")) for c in checkpoints]
    paths = [[part for part in path.parts if part != "checkpoints"] for path in absolute]
    if len(set(map(tuple, paths))) == 1:
        return ["/".join(path[-2:]) for path in paths]
    head = min(_num_shared(paths), min(map(len, paths)) - 1)
    paths = [path[head:] for path in paths]
    tail = _num_shared([path[:0:-1] for path in paths])  # never the first part
    return ["/".join(path[: len(path) - tail]) for path in paths]


def _num_shared(paths: Sequence[Sequence[str]]) -> int:
    """How many parts at the front all paths have in common."""
    return len(list(takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False))))


def metric_rows(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per metric of any run: title, note, better, floor (None if unknown or not shared) and a cell per run.

    A cell has value, low, high (floats or None), texts rounded to the interval's second digit, and `best`.
    """
    everything = {name for run in runs for name in run["metrics"]}
    names = [name for name in everything if not any(name.removesuffix(b) in everything - {name} for b in BESIDE)]
    return [_metric_row(name, runs) for name in sorted(names, key=lambda name: (describe(name)[0], name))]


def _metric_row(name: str, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
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
    best = {"lower": min, "higher": max}[better](known) if better and known else None
    for cell in cells:
        cell["best"] = len(runs) > 1 and best is not None and cell["value"] == best
        cell["text"] = _text(cell["value"], digits)
        cell["interval"] = cell["margin"] = ""
        if cell["low"] is not None:
            cell["interval"] = f"{_text(cell['low'], digits)} … {_text(cell['high'], digits)}"
            cell["margin"] = f"±{_text((cell['high'] - cell['low']) / 2, digits)}"
        elif cell["std"] is not None:
            cell["interval"] = f"std of subsets {_text(cell['std'], digits)}"
    row = {"name": name, "title": title, "note": note, "better": better, "arrow": ARROWS[better], "cells": cells}
    return row | {"floor": floor, "floor_text": _text(floor, digits) if floor is not None else ""}


def _decimals(values: Sequence[float], widths: Sequence[float]) -> int:
    """Decimals that show two digits of the narrowest interval, or four of the largest value where there is none."""
    narrow = min((w for w in widths if w > 0), default=0.0)
    if narrow:
        return min(max(1 - math.floor(math.log10(narrow)), 0), 6)
    largest = max((abs(v) for v in values), default=0.0)
    return min(max(3 - math.floor(math.log10(largest)), 0), 6) if largest else 3


def _text(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def whiskers(row: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Pixel coordinates of one metric's plot: a dot and its interval per run, the floor as a vertical line."""
    cells = [c for c in row["cells"] if c["value"] is not None]
    ends = [v for c in cells for v in (c["value"], c["low"], c["high"]) if v is not None]
    ends += [row["floor"]] if row["floor"] is not None else []
    low, high = min(ends), max(ends)
    margin = 0.06 * (high - low) or abs(high) * 0.05 or 1.0
    low, high = low - margin, high + margin

    def pixel(value: float | None) -> float | None:
        return None if value is None else round(LABEL_WIDTH + PLOT_WIDTH * (value - low) / (high - low), 1)

    dots = [
        {k: pixel(c[k]) for k in ("value", "low", "high")}
        | {"y": ROW_HEIGHT * (i + 0.7), "colour": COLOURS[i % len(COLOURS)], "label": shorten(names[i])}
        for i, c in enumerate(row["cells"])
    ]
    marks = [{"x": pixel(t), "text": text} for t, text in ticks(low, high)]
    height = ROW_HEIGHT * len(dots) + 30
    return {"dots": dots, "ticks": marks, "floor": pixel(row["floor"]), "width": 540, "height": height}


def ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Three to seven round numbers inside (low, high) and their texts."""
    power = 10.0 ** math.floor(math.log10((high - low) / 3))
    step = max(s * power for s in (1, 2, 5) if s * power <= (high - low) / 3)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return [(k * step, _text(k * step, digits)) for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def shorten(label: str, length: int = 26) -> str:
    """Both ends of a long label."""
    half = length // 2
    return label if len(label) <= length else f"{label[:half]}…{label[-half + 1 :]}"
