"""What a report tells, as a run of Weights & Biases."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from callbacks.tracking.wandb_logger import OfflineFirstWandbLogger
from commands.report.page import PLOT
from commands.report.plots import COSTS, curves, trade_offs
from commands.report.rows import metric_rows, run_labels

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


def values(runs: Sequence[dict[str, Any]]) -> list[list[Any]]:
    """Lines of the table, with None for what is not known."""
    labels, lines = run_labels(runs), []
    for row in metric_rows(runs):
        for run, label, cell in zip(runs, labels, row["cells"], strict=True):
            costs = [run.get("sampling", {}).get(cost) for cost in COSTS]
            lines.append([label, row["name"], cell["value"], cell["low"], cell["high"], *costs])
    return lines


def drawings(runs: Sequence[dict[str, Any]]) -> dict[str, str]:
    """{log key: page with one plot of the report}."""
    from jinja2 import Environment

    rows, labels = metric_rows(runs), run_labels(runs)
    page = Environment(autoescape=True, trim_blocks=True).from_string(PLOT + "{{ xy(plot) }}")
    found = {"curves": curves(rows, runs), "fronts": trade_offs(rows, runs, labels)}
    return {
        f"{kind}/{re.sub(r'[^a-zA-Z0-9]+', '_', plot['title'] + ' by ' + plot['x_title'])}": page.render(plot=plot)
        for kind, plots in found.items()
        for plot in plots
    }
