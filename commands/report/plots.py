"""Plots of several runs as pixel coordinates: a metric along training or inference steps, quality against its cost.

A *plot* is {"title", "note", "x_title", "width", "height", "x_ticks", "y_ticks", "lines", "band", "dots"}: ticks have
"at" and "text", lines "points" (SVG) and "colour", dots "x", "y", "low", "high" (or None), "colour", "label" and where
it stands; band has the points around the intervals of the front, "" for none.
"""

import math
from collections.abc import Sequence
from typing import Any

from commands.report.rows import COLOURS, shorten, ticks

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 540, 260, 62, 44, 12, 24  # pixels
FRONT = "#8b949e"
COSTS = {"nfe": "passes through the network per sample", "nfe_p95": "passes that 95 % of samples stay within"}
COSTS |= {"seconds_per_sample": "seconds per sample", "seconds_p95": "seconds that 95 % of samples stay within"}
TIMES = ("seconds_per_sample", "seconds_p95")
AUC = "oracle_auc"  # ends the name of what tells how well a cascade is routed
CLEARLY_SLOWER = 1.25  # times that differ by less are noise


def curves(rows: Sequence[dict[str, Any]], runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each metric along what a series of runs differs in: checkpoints of one training, or inference steps."""
    found = []
    for title, position, family in (
        ("training step", lambda run: run.get("step"), lambda run: run["config"]),
        ("inference steps", lambda run: run.get("sampling", {}).get("steps"), lambda run: run["checkpoint"]),
    ):
        series: dict[str, list[int]] = {}
        for i, run in enumerate(runs):
            if position(run) is not None:
                series.setdefault(family(run), []).append(i)
        series = {name: members for name, members in series.items() if len({position(runs[i]) for i in members}) > 1}
        for row in rows if series else ():
            points = [
                {"x": position(runs[i]), "series": number, "label": ""} | row["cells"][i]
                for number, members in enumerate(series.values())
                for i in sorted(members, key=lambda i: position(runs[i]))
                if row["cells"][i]["value"] is not None
            ]
            if len(points) > 1:
                found.append(_plot(f"{row['title']}{row['arrow']}", title, points, connect=True))
    return found


def trade_offs(
    rows: Sequence[dict[str, Any]], runs: Sequence[dict[str, Any]], names: Sequence[str]
) -> list[dict[str, Any]]:
    """Each metric against what a sample costs, with the Pareto front; none where all runs cost the same."""
    found = []
    for cost, title in COSTS.items():
        costs = [run.get("sampling", {}).get(cost) for run in runs]
        known = [c for c in costs if c]
        factor = CLEARLY_SLOWER if cost in TIMES else 1.0
        if len(known) < 2 or max(known) <= factor * min(known):
            continue
        for row in (row for row in rows if row["better"]):
            points = [
                {"x": costs[i], "series": i, "label": shorten(names[i], 22)} | cell
                for i, cell in enumerate(row["cells"])
                if costs[i] and cell["value"] is not None
            ]
            if len(points) > 1:
                plot = _plot(f"{row['title']}{row['arrow']}", title, points, better=row["better"])
                found.append(plot | {"note": auc_note(row["name"], runs)})
    return found


def auc_note(metric: str, runs: Sequence[dict[str, Any]]) -> str:
    """How well the oracle of cascades is right, by the reader of the metric, or by the one that measures at all."""
    names = {name for run in runs for name in run["metrics"] if name.endswith(AUC)}
    fitting = [name for name in names if metric.startswith(name.removesuffix(AUC))]
    if not fitting:
        return ""
    name = max(fitting, key=len)
    values = [run["metrics"][name] for run in runs if run["metrics"].get(name) is not None]
    ends = sorted({f"{value:.2f}" for value in (min(values), max(values))}) if values else []
    return f"AUC of the oracle on drafts {' to '.join(ends)}" if ends else ""


def pareto_front(points: Sequence[dict[str, Any]], better: str) -> list[dict[str, Any]]:
    """The points that no other beats in cost and quality, by rising cost."""
    sign = 1 if better == "lower" else -1
    front: list[dict[str, Any]] = []
    for point in sorted(points, key=lambda p: (p["x"], sign * p["value"])):
        if not front or sign * point["value"] < sign * front[-1]["value"]:
            front.append(point)
    return front


def _plot(
    title: str, x_title: str, points: Sequence[dict[str, Any]], connect: bool = False, better: str = ""
) -> dict[str, Any]:
    xs = [p["x"] for p in points]
    ys = [v for p in points for v in (p["value"], p["low"], p["high"]) if v is not None]
    logarithmic = min(xs) > 0 and max(xs) / min(xs) >= 8
    scale = math.log10 if logarithmic else float
    x_of = _axis([scale(x) for x in xs], LEFT, WIDTH - RIGHT)
    y_of = _axis(ys, HEIGHT - BOTTOM, TOP)

    def place(point: dict[str, Any]) -> str:
        return f"{x_of(scale(point['x']))},{y_of(point['value'])}"

    lines, band = [], ""
    if connect:
        for number in sorted({p["series"] for p in points}):
            members = [p for p in points if p["series"] == number]
            lines.append({"points": " ".join(map(place, members)), "colour": _colour(number), "dash": ""})
    if better:
        front = pareto_front(points, better)
        lines.append({"points": " ".join(map(place, front)), "colour": FRONT, "dash": "5 4"})
        known = [p for p in front if p["low"] is not None]
        around = [(p, "low") for p in known] + [(p, "high") for p in reversed(known)]
        band = " ".join(f"{x_of(scale(p['x']))},{y_of(p[end])}" for p, end in around)
    dots = [
        {
            "x": x_of(scale(p["x"])),
            "y": y_of(p["value"]),
            "low": None if p["low"] is None else y_of(p["low"]),
            "high": None if p["high"] is None else y_of(p["high"]),
            "colour": _colour(p["series"]),
            "label": p["label"],
            "before": x_of(scale(p["x"])) > WIDTH * 0.6,  # the label stands left of the dot
            "below": number % 2 == 1,  # neighbours' labels keep apart
        }
        for number, p in enumerate(points)
    ]
    low, high = _padded(ys)
    return {
        "title": title,
        "note": "",
        "x_title": x_title + (" (logarithmic)" if logarithmic else ""),
        "width": WIDTH,
        "height": HEIGHT,
        "x_ticks": _x_ticks(xs, logarithmic, lambda x: x_of(scale(x))),
        "y_ticks": [{"at": y_of(value), "text": text} for value, text in ticks(low, high)],
        "lines": lines,
        "band": band,
        "dots": dots,
    }


def _x_ticks(xs: Sequence[float], logarithmic: bool, x_of: Any) -> list[dict[str, Any]]:
    if len(set(xs)) <= 6:  # the values themselves
        values = [(x, f"{x:.4g}") for x in sorted(set(xs))]
    elif logarithmic:
        powers = range(math.floor(math.log10(min(xs))), math.ceil(math.log10(max(xs))) + 1)
        values = [(10.0**power, f"{10.0**power:g}") for power in powers if min(xs) <= 10.0**power <= max(xs)]
    else:
        values = ticks(*_padded(xs))
    kept: list[dict[str, Any]] = []
    for value, text in values:
        at = x_of(value)
        if not kept or at - kept[-1]["at"] > 7 * len(text) + 4:  # else the texts would touch
            kept.append({"at": at, "text": text})
    return kept


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.08 * (high - low) or abs(high) * 0.05 or 1.0
    return low - margin, high + margin


def _axis(values: Sequence[float], first: float, last: float) -> Any:
    """Value -> pixel, `first` at the padded lower end of the values and `last` at the upper."""
    low, high = _padded(values)
    return lambda value: round(first + (last - first) * (value - low) / (high - low), 1)


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]
