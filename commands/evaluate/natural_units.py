"""The likelihood of y in the units of the user's columns, beside that of the standardised rows that a network sees."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule

STANDARDISED, NATURAL = "test/nll", "test/nll_natural"


def with_natural_units(model: LightningModule, run: Mapping[str, Any]) -> dict[str, Any]:
    """A measured run with NATURAL among its metrics, intervals, rows and protocol, where y is standardised.

    A change of variables adds the same to every row: the sum of the logarithms of the deviations of y.
    """
    units = getattr(model, "units", None)
    if run["metrics"].get(STANDARDISED) is None or units is None or not units.y_std:
        return dict(run)
    added = units.log_volume
    moved = {
        "metrics": run["metrics"][STANDARDISED] + added,
        "intervals": [end + added for end in run["intervals"].get(STANDARDISED, ())],
        "rows": [value + added for value in run["rows"].get(STANDARDISED, ())],
        "protocol": {"metric": f"{STANDARDISED} and the logarithms of the deviations of y", "sum": round(added, 6)},
    }
    return dict(run) | {part: {**run[part], NATURAL: value} for part, value in moved.items() if value != []}
