"""The picture of a sweep: quality against passes, one panel for each judge."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fewstep.collaboration.plot_style import GREY, INK, STYLE, short_name

FAMILIES = {
    "adaptive": ("#D55E00", "o", "-"),
    "teacher": (INK, "s", "-"),
    "best of n": ("#0072B2", "^", "-"),
    "refine everything": ("#009E73", "v", "none"),
    "random": ("#BBBBBB", "o", "--"),
    "student": ("#CC79A7", "D", "none"),
}


def draw(rows: Sequence[Mapping[str, Any]], path: Path, auc: Mapping[str, float]) -> None:
    """A PNG of rows of sweep.jsonl; auc: of the oracle for each judge, by name."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    judges = list(rows[0]["scores"])
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.6 * len(judges), 4.6))
        panels = figure.subplots(1, len(judges), squeeze=False)[0].tolist()
        for panel, judge in zip(panels, judges, strict=True):
            for family, (colour, marker, line) in FAMILIES.items():
                points = sorted((row["passes"], *row["scores"][judge]) for row in rows if row["family"] == family)
                if not points:
                    continue
                x, mean, low, high = zip(*points, strict=True)
                panel.plot(x, mean, color=colour, marker=marker, markersize=4, linestyle=line, label=family)
                if line == "-":
                    panel.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
                else:
                    panel.vlines(x, low, high, color=colour, linewidth=1)
            panel.set_title(short_name(judge), loc="left", pad=20)
            known = f"; AUC of the oracle {auc[judge]:.2f}" if judge in auc else ""
            panel.text(
                0,
                1.03,
                f"mean over {len(rows[0]['values'][judge])} prompts{known}",
                transform=panel.transAxes,
                color=GREY,
            )
            panel.set_xlabel("passes of the teacher's network for a picture, on average")
        figure.legend(
            *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(FAMILIES), frameon=False
        )
        figure.tight_layout(rect=(0, 0.07, 1, 1))
        figure.savefig(path, dpi=120, facecolor="white")
