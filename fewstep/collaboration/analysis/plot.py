"""The picture of an analysis: who wins, what chance gives, and the win rate over each covariate."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewstep.collaboration.plot_style import GREY, INK, STYLE, short_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

JUDGES = ("#0072B2", "#009E73", "#CC79A7", "#E69F00")  # one after the other, and again from the first
SIDES = (("student", "#D55E00"), ("tie", "#DDDDDD"), ("teacher", INK))
COLUMNS = 3


def draw(told: Mapping[str, Any], path: Path) -> None:
    """A PNG of what analysis.json tells. Where the judges disagree the picture says that nothing is claimed."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    judges = told["judges"]
    colours = {name: JUDGES[number % len(JUDGES)] for number, name in enumerate(judges)}
    covariates = list(next(iter(judges.values()))["trends"])
    rows = -(-(len(covariates) + 2) // COLUMNS)
    height = 0.6 + 3.4 * rows  # inches
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(13, height))
        panels = figure.subplots(rows, COLUMNS, squeeze=False).flatten().tolist()
        figure.subplots_adjust(
            left=0.04, right=0.985, top=1 - 1.15 / height, bottom=0.45 / height, wspace=0.22, hspace=0.52
        )
        figure.text(0.04, 1 - 0.3 / height, _verdict(told))
        _draw_shares(panels[0], judges, colours)
        for panel, name in zip(panels[1:], covariates, strict=False):
            _draw_trend(panel, name, judges, colours)
        _draw_regression(panels[len(covariates) + 1], judges, colours)
        for panel in panels[len(covariates) + 2 :]:
            panel.set_axis_off()
        figure.savefig(path, dpi=120, facecolor="white")


def _verdict(told: Mapping[str, Any]) -> str:
    parts = []
    for each in told["agreement"]:
        share = "no pair that neither calls a tie" if each["share"] is None else f"{each['share']['value']:.0%}"
        parts.append(f"{' and '.join(map(short_name, each['judges']))} name the same winner in {share}")
    claim = "." if told["claim"] else ". Too little for a claim."
    return f"{told['num_pairs']} pairs of one prompt and one noise. {'; '.join(parts)}{claim} Intervals of 95 %."


def _titled(panel: "Axes", title: str, unit: str) -> None:
    panel.set_title(title, loc="left", pad=22)
    panel.text(0, 1.04, unit, transform=panel.transAxes, color=GREY)


def _without(panel: "Axes", why: str) -> None:
    panel.text(0.5, 0.5, why, transform=panel.transAxes, ha="center", color=GREY)
    panel.set(xticks=[], yticks=[])


def _draw_shares(panel: "Axes", judges: Mapping[str, Any], colours: Mapping[str, str]) -> None:
    _titled(panel, "Who wins", "share of pairs; pale: a second draw of the teacher for the student")
    for place, (name, judged) in enumerate(judges.items()):
        top = 2.5 * place
        panel.text(0, top - 0.45, short_name(name), color=colours[name], weight="bold", va="bottom")
        for key, y, alpha in (("shares", top, 1.0), ("null", top + 0.85, 0.4)):
            left = 0.0
            for side, colour in SIDES:
                share = judged[key][side]["value"]
                panel.barh(y, share, left=left, height=0.75, color=colour, alpha=alpha)
                if share > 0.05:
                    ink = "white" if alpha == 1 and side != "tie" else INK
                    panel.text(left + share / 2, y, f"{share:.0%}", color=ink, ha="center", va="center")
                left += share
    for (side, colour), x, align in zip(SIDES, (0, 0.5, 1), ("left", "center", "right"), strict=True):
        ink = GREY if side == "tie" else colour
        panel.text(x, -0.02, side, transform=panel.transAxes, color=ink, weight="bold", ha=align, va="top")
    panel.set(xlim=(0, 1), ylim=(2.5 * len(judges) - 1.1, -1.1), xticks=[], yticks=[])
    panel.spines[:].set_visible(False)


def _draw_trend(panel: "Axes", name: str, judges: Mapping[str, Any], colours: Mapping[str, str]) -> None:
    _titled(panel, f"Wins by {name}", "share of pairs that the student wins, by fifths")
    top = 0.0
    for number, (judge, judged) in enumerate(judges.items()):
        trend = judged["trends"][name]
        if "left_out" in trend:
            _without(panel, "the same for all pairs")
            return
        won = [group["won"] for group in trend["groups"]]
        x = [place + 0.09 * (number - (len(judges) - 1) / 2) for place in range(len(won))]
        _points(panel, x, won, colours[judge])
        panel.set_xticks(range(len(won)), [_between(group) for group in trend["groups"]], fontsize=7.5)
        note: dict[str, Any] = {"transform": panel.transAxes, "color": colours[judge], "ha": "right", "va": "top"}
        panel.text(1, 0.99 - 0.075 * number, f"trend p = {trend['p']:.2g}", **note)
        top = max(top, *(share["high"] for share in won))
    panel.set_ylim(0, min(1.0, 1.2 * top))
    panel.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    panel.grid(axis="x", visible=False)


def _between(group: Mapping[str, float]) -> str:
    low, high = f"{group['low']:.3g}", f"{group['high']:.3g}"
    return low if low == high else f"{low} to\n{high}"


def _draw_regression(panel: "Axes", judges: Mapping[str, Any], colours: Mapping[str, str]) -> None:
    _titled(panel, "All covariates at once", "ln odds of a win for one standard deviation more")
    fitted = {name: judged["logistic_regression"] for name, judged in judges.items()}
    fitted = {name: found for name, found in fitted.items() if "left_out" not in found}
    if not fitted:
        _without(panel, "no finite estimate")
        return
    names = [name for name in next(iter(fitted.values())) if name != "intercept"]
    for number, (judge, found) in enumerate(fitted.items()):
        x = [place + 0.15 * (number - (len(fitted) - 1) / 2) for place in range(len(names))]
        _points(panel, x, [found[name] for name in names], colours[judge], line="none")
    panel.axhline(0, color=GREY, linewidth=0.8)
    panel.set_xticks(range(len(names)), names)
    panel.set_xlim(-0.5, len(names) - 0.5)
    panel.grid(axis="x", visible=False)


def _points(
    panel: "Axes", x: Sequence[float], estimates: Sequence[Mapping[str, float]], colour: str, line: str = "-"
) -> None:
    """Estimates with their intervals."""
    y, low, high = ([each[part] for each in estimates] for part in ("value", "low", "high"))
    panel.vlines(x, low, high, color=colour, linewidth=1)
    panel.plot(x, y, color=colour, marker="o", markersize=4, linestyle=line)
