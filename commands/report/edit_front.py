"""The front of editors: how strongly an edit shows against what it preserves, a line for each editor and tau."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from commands.report.drawing import FRONT, STYLE, colour, svg_of
from commands.report.plots import Point, pareto_front

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STRENGTH, STRENGTH_TITLE = "clip_similarity", "CLIP similarity of the whole picture to the target's caption"
MARKERS, DASHES = "osD^vP*X<>", ((), (4, 2), (1, 1.5), (6, 2, 1, 2))


class Side(NamedTuple):
    name: str
    title: str
    better: str


def draw_front(runs: Sequence[dict[str, Any]]) -> str | None:
    """SVG; None where the runs have no measure of strength or of preservation. Up and to the right is better."""
    known = {name.partition("/")[2] for run in runs for name in run["metrics"]}
    structure = next((name for name in sorted(known) if name.startswith("structure_")), "")
    sides = [Side("psnr_background", "PSNR of the background, dB", "higher")]
    sides.append(Side(structure, "structure distance (falling)", "lower"))
    sides = [side for side in sides if side.name in known]
    if STRENGTH not in known or not sides:
        return None
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        editors = list(dict.fromkeys(run["settings"]["editor"] for run in runs))
        figure = Figure(figsize=(4.9 * len(sides), 3.6 + 0.2 * len(editors)), layout="constrained")
        for axes, side in zip(figure.subplots(1, len(sides), squeeze=False)[0], sides, strict=True):
            _panel(axes, runs, editors, side)
        handles, names = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False)
        return svg_of(figure)


def _panel(axes: "Axes", runs: Sequence[dict[str, Any]], editors: Sequence[str], side: Side) -> None:
    taus = sorted({run["settings"]["tau"] for run in runs}, key=float)
    x_name, y_name, every = f"test/{STRENGTH}", f"test/{side.name}", []
    for number, editor in enumerate(editors):
        for tau in taus:
            mine = [r for r in runs if (r["settings"]["editor"], r["settings"]["tau"]) == (editor, tau)]
            mine = [run for run in mine if x_name in run["metrics"] and y_name in run["metrics"]]
            mine.sort(key=lambda run: float(run["settings"]["w"]))
            points = [(run["metrics"][x_name], run["metrics"][y_name]) for run in mine]
            if not points:
                continue
            every += points
            style = {"color": colour(number), "marker": MARKERS[number % len(MARKERS)], "markersize": 5}
            style["dashes"] = DASHES[taus.index(tau) % len(DASHES)]
            style["markerfacecolor"] = "white" if taus.index(tau) % 2 else colour(number)
            named = editor if len(taus) == 1 else f"{editor}, tau {tau}"
            axes.plot(*zip(*points, strict=True), label=named, linewidth=1.4, **style)
            for place, (run, (x, y)) in enumerate(zip(mine, points, strict=True)):
                axes.hlines(y, *run["intervals"][x_name], color=colour(number), linewidth=0.8, alpha=0.35)
                axes.vlines(x, *run["intervals"][y_name], color=colour(number), linewidth=0.8, alpha=0.35)
                if place in (0, len(mine) - 1):  # the ends tell the direction
                    told = f"w {run['settings']['w']}"
                    axes.annotate(told, (x, y), (4, 4), textcoords="offset points", fontsize=7, alpha=0.8)
    best = pareto_front([Point(-x, y) for x, y in every], side.better)  # strength is no cost: more is better
    axes.plot([-p.x for p in best], [p.y for p in best], color=FRONT, linewidth=6, alpha=0.3, label="front", zorder=0)
    axes.set_xlabel(STRENGTH_TITLE)
    axes.set_ylabel(side.title)
    if side.better == "lower":
        axes.invert_yaxis()
