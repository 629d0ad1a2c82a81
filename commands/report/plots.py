"""What is drawn of several runs: a metric along training or inference steps, and quality against its cost."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from commands.report.names import shorten

Run = Mapping[str, Any]
COSTS = {"nfe": "passes through the network per sample", "nfe_p95": "passes that 95 % of samples stay within"}
COSTS |= {"seconds_per_sample": "seconds per sample", "seconds_p95": "seconds that 95 % of samples stay within"}
TIMES = ("seconds_per_sample", "seconds_p95")
AUC = "oracle_auc"  # ends the name of what tells how well a cascade is routed
CLEARLY_SLOWER = 1.25  # what a machine's other work does to all batches of a run is in no interval


class Point(NamedTuple):
    x: float
    y: float
    low: float | None = None  # of the 95 % interval of y
    high: float | None = None
    run: int = 0  # whose colour it has
    label: str = ""


class Plot(NamedTuple):
    title: str
    x_title: str
    points: list[Point]
    lines: Sequence[Sequence[Point]] = ()  # one for each series, by rising x
    front: Sequence[Point] = ()  # by rising x
    note: str = ""


def curves(rows: Sequence[dict[str, Any]], runs: Sequence[Run], numbers: Sequence[int]) -> list[Plot]:
    """Each metric along what a series of runs differs in: checkpoints of one training, or inference steps.

    numbers: of the runs among all of the report, which decide on their colours.
    """
    found = []
    ways: list[tuple[str, Callable[[Run], Any], Callable[[Run], str]]] = [
        ("training step", lambda run: run.get("step"), lambda run: str(run["config"])),
        ("inference steps", lambda run: run.get("sampling", {}).get("steps"), lambda run: str(run["checkpoint"])),
    ]
    for title, position, family in ways:
        series: dict[str, list[int]] = {}
        for i, run in enumerate(runs):
            if position(run) is not None:
                series.setdefault(family(run), []).append(i)
        longer = [members for members in series.values() if len({position(runs[i]) for i in members}) > 1]
        for row in rows if longer else ():
            lines = [
                [
                    _point(position(runs[i]), row["cells"][i], numbers[members[0]])
                    for i in sorted(members, key=lambda i: position(runs[i]))
                    if row["cells"][i]["value"] is not None
                ]
                for members in longer
            ]
            if len(points := [point for line in lines for point in line]) > 1:
                found.append(Plot(f"{row['title']}{row['arrow']}", title, points, [line for line in lines if line]))
    return found


def trade_offs(
    rows: Sequence[dict[str, Any]], runs: Sequence[Run], names: Sequence[str], numbers: Sequence[int]
) -> list[Plot]:
    """Each metric against what a sample costs, with the Pareto front; none where all runs cost the same, or differ by
    no more than the noise of the clock.
    """
    found = []
    for cost, title in COSTS.items():
        costs = [run.get("sampling", {}).get(cost) for run in runs]
        if not (_clearly_slower(cost, runs) if cost in TIMES else len({c for c in costs if c}) > 1):
            continue
        for row in (row for row in rows if row["better"] and not row["name"].endswith(AUC)):
            points = [
                _point(costs[i], cell, numbers[i], shorten(names[i], 22))
                for i, cell in enumerate(row["cells"])
                if costs[i] and cell["value"] is not None
            ]
            if len(points) > 1:
                front = pareto_front(points, row["better"])
                title_of = f"{row['title']}{row['arrow']}"
                found.append(Plot(title_of, title, points, front=front, note=auc_note(row["name"], runs)))
    return found


def _clearly_slower(cost: str, runs: Sequence[Run]) -> bool:
    """The slowest and the fastest run lie apart by more than their intervals, and than other work on the machine."""
    known = [run.get("sampling", {}) for run in runs if run.get("sampling", {}).get(cost)]
    ends = [each.get(f"{cost}_interval") for each in known]
    if len(known) < 2 or None in ends:
        return False
    values = [each[cost] for each in known]
    fast, slow = ends[values.index(min(values))], ends[values.index(max(values))]
    return max(values) > CLEARLY_SLOWER * min(values) and slow[0] > fast[1]


def auc_note(metric: str, runs: Sequence[Run]) -> str:
    """How well the oracle of cascades is right, by the reader of the metric, or by the one that measures at all."""
    names = {name for run in runs for name in run["metrics"] if name.endswith(AUC)}
    fitting = [name for name in names if metric.startswith(name.removesuffix(AUC))]
    if not fitting:
        return ""
    name = max(fitting, key=len)
    values = [run["metrics"][name] for run in runs if run["metrics"].get(name) is not None]
    ends = sorted({f"{value:.2f}" for value in (min(values), max(values))}) if values else []
    return f"AUC of the oracle on drafts {' to '.join(ends)}" if ends else ""


def pareto_front(points: Sequence[Point], better: str) -> list[Point]:
    """The points that no other beats in cost and quality, by rising cost."""
    sign = 1 if better == "lower" else -1
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.x, sign * p.y)):
        if not front or sign * point.y < sign * front[-1].y:
            front.append(point)
    return front


def _point(x: float, cell: Mapping[str, Any], run: int, label: str = "") -> Point:
    return Point(x, cell["value"], cell["low"], cell["high"], run, label)
