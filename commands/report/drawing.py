"""Plots of a report as SVG by matplotlib, to stand in a page: text stays text, nothing refers outside."""

import io
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from commands.report.names import shorten
from commands.report.plots import Plot, Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
SOFT, INK, GRID, FRONT = "#656d76", "#1f2328", "#e8ebee", "#8b949e"
STYLE: dict[Any, Any] = (
    dict.fromkeys(("axes.labelcolor", "xtick.color", "ytick.color"), SOFT)
    | dict.fromkeys(("xtick.major.size", "ytick.major.size", "xtick.minor.size", "ytick.minor.size"), 0)
    | dict.fromkeys(("axes.spines.top", "axes.spines.right", "axes.spines.left", "axes.spines.bottom"), False)
    | {"font.size": 8.5, "text.color": INK, "axes.grid": True, "axes.axisbelow": True, "grid.color": GRID}
    | {"font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "text.parse_math": False}
    | {"svg.fonttype": "none", "svg.hashsalt": "report"}
)
UNTOLD = dict.fromkeys(("Creator", "Date", "Format", "Type"))  # of the file's metadata: equal runs, equal bytes
WIDTH, HEIGHT, ROW = 5.4, 2.7, 0.27  # inches


def colour(run: int) -> str:
    return COLOURS[run % len(COLOURS)]


def whiskers(row: Mapping[str, Any], names: Sequence[str], numbers: Sequence[int]) -> str:
    """A dot with its interval for each run, one below the other, and the floor."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, ROW * len(names) + 0.4), layout="constrained")
        axes = figure.subplots()
        axes.grid(axis="y", visible=False)
        for place, (cell, number) in enumerate(zip(row["cells"], numbers, strict=True)):
            if cell["low"] is not None:
                axes.plot([cell["low"], cell["high"]], [place, place], color=colour(number), linewidth=1.8)
            if cell["value"] is not None:
                axes.plot([cell["value"]], [place], "o", color=colour(number), markersize=6)
        if row["floor"] is not None:
            axes.axvline(row["floor"], color=FRONT, linestyle=(0, (4, 3)), linewidth=1)
        axes.set_yticks(range(len(names)), [shorten(name) for name in names], color=INK)
        axes.margins(x=0.06)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.locator_params(axis="x", nbins=6)
        return svg_of(figure)


def draw(plot: Plot) -> str:
    """Points with intervals; lines along series, or the front with its band."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        axes = figure.subplots()
        for line in plot.lines:
            axes.plot([p.x for p in line], [p.y for p in line], color=colour(line[0].run), linewidth=1.6)
        _front(axes, plot.front)
        for point in plot.points:
            if point.low is not None and point.high is not None:
                axes.vlines(point.x, point.low, point.high, color=colour(point.run), linewidth=1.8)
            axes.plot([point.x], [point.y], "o", color=colour(point.run), markersize=6)
        xs = [point.x for point in plot.points]
        if logarithmic := min(xs) > 0 and max(xs) / min(xs) >= 8:
            axes.set_xscale("log")
        _x_ticks(axes, sorted(set(xs)))
        _label(axes, plot.points)
        axes.set_xlabel(plot.x_title + (" (logarithmic)" if logarithmic else ""))
        axes.margins(x=0.08, y=0.14)
        return svg_of(figure)


def _front(axes: "Axes", front: Sequence[Point]) -> None:
    axes.plot([p.x for p in front], [p.y for p in front], color=FRONT, linestyle=(0, (5, 4)), linewidth=1.4)
    known = [(p.x, p.low, p.high) for p in front if p.low is not None and p.high is not None]
    if len(known) > 1:
        axes.fill_between(*map(list, zip(*known, strict=True)), color=FRONT, alpha=0.15, linewidth=0)


def _x_ticks(axes: "Axes", xs: Sequence[float]) -> None:
    """The values themselves where they are few and apart."""
    from matplotlib.ticker import NullFormatter, NullLocator

    low, high = axes.get_xlim()
    scale = axes.xaxis.get_transform().transform
    places = [(scale(x) - scale(low)) / (scale(high) - scale(low)) for x in xs]
    if len(xs) <= 6 and all(b - a > 0.09 for a, b in pairwise(places)):
        axes.set_xticks(xs, [f"{x:.4g}" for x in xs])
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())


def _label(axes: "Axes", points: Sequence[Point]) -> None:
    """Names beside the dots, on the side where there is room, those of neighbours apart."""
    low, high = axes.get_xlim()
    scale = axes.xaxis.get_transform().transform
    for number, point in enumerate(sorted(points, key=lambda point: point.x)):
        before = (scale(point.x) - scale(low)) / (scale(high) - scale(low)) > 0.6
        offset = (-6 if before else 6, -11 if number % 2 else 5)
        side = "right" if before else "left"
        axes.annotate(point.label, (point.x, point.y), offset, textcoords="offset points", ha=side, fontsize=8)


def svg_of(figure: "Figure") -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata=UNTOLD)
    return re.sub(r"\A.*?(?=<svg)", "", file.getvalue(), flags=re.DOTALL)
