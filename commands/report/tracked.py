"""What a report tells, as a run of Weights & Biases or Trackio."""

import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any, Literal

from callbacks.tracking.trackio_logger import TrackioLogger
from callbacks.tracking.wandb_logger import OfflineFirstWandbLogger
from commands.report.comparison import by_task
from commands.report.drawing import draw
from commands.report.names import run_labels
from commands.report.plots import COSTS, curves, trade_offs
from commands.report.rows import metric_rows

TABLE = "evaluation"
COLUMNS = ["run", "metric", "value", "low", "high", *COSTS]


def record(out: Path, runs: Sequence[dict[str, Any]], mode: Literal["offline", "online"], project: str) -> str | None:
    """Below OUT/wandb: a table of all values with their intervals and costs, the curves and the fronts of the report.

    Returns the command that uploads what is not yet uploaded. What fails is said in one line.
    """
    logger = OfflineFirstWandbLogger(str(out), out.absolute().name, project, mode)
    logger.log_sample_table(TABLE, COLUMNS, values(runs), None)
    logger.log_pages(drawings(runs))
    return logger.close()


def record_locally(out: Path, runs: Sequence[dict[str, Any]], project: str) -> str | None:
    """The same table in Trackio, which has no pages; returns the command that shows it. ValueError without Trackio."""
    logger = TrackioLogger(str(out), out.absolute().name, project)
    logger.log_sample_table(TABLE, COLUMNS, values(runs), None)
    return logger.close()


def values(runs: Sequence[dict[str, Any]]) -> list[list[Any]]:
    """Lines of the table, with None for what is not known."""
    labels, lines = run_labels(runs), []
    for members in by_task(runs):
        mine = [runs[i] for i in members]
        for row in metric_rows(mine):
            for number, run, cell in zip(members, mine, row["cells"], strict=True):
                costs = [run.get("sampling", {}).get(cost) for cost in COSTS]
                lines.append([labels[number], row["name"], cell["value"], cell["low"], cell["high"], *costs])
    return lines


def drawings(runs: Sequence[dict[str, Any]]) -> dict[str, str]:
    """{log key: page with one plot of the report}."""
    names, found = run_labels(runs), {}
    for members in by_task(runs):
        mine = [runs[i] for i in members]
        rows = metric_rows(mine)
        plots = {
            "curves": curves(rows, mine, members),
            "fronts": trade_offs(rows, mine, [names[i] for i in members], members),
        }
        for kind, each in plots.items():
            for plot in each:
                name = re.sub(r"[^a-zA-Z0-9]+", "_", f"{plot.title} by {plot.x_title}")
                found[f"{kind}/{name}"] = f"<h4>{escape(plot.title)}</h4>{draw(plot)}"
    return found
