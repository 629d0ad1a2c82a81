"""What a conditional model says of the rows of a table, and the tables that this fills."""

import csv
import io
from collections.abc import Mapping, Sequence

from torch import Tensor

from fewstep.transport.conditional_model import ConditionalModel, Rows
from fewstep.transport.units import Units


def answers(
    model: ConditionalModel,
    x: Rows,
    y: Rows | None,
    num_samples: int,
    levels: Sequence[float],
    seed: int = 0,
    keys: Sequence[int | str] | None = None,
) -> dict[str, Tensor]:
    """In natural units, float64: of a model of a density `mean` [B, Dy] and `quantiles` [B, Q, Dy], of one of labels
    `probability` [B, K]; of both `sample` [B, S, Dy] if num_samples is above 0, and `log_density` [B] if y is there.
    """
    found = {}
    if hasattr(model.network, "class_log_prob"):
        found["probability"] = model.class_probabilities(x)
    else:
        found["mean"] = model.mean(x)
        if len(levels):
            found["quantiles"] = model.quantiles(x, levels)
    if y is not None:
        found["log_density"] = model.log_density(y, x)
    if num_samples:
        found["sample"] = model.sample(x, num_samples, seed, keys)
    return found


def summary_table(units: Units, levels: Sequence[float], x: Tensor, told: Mapping[str, Tensor]) -> bytes:
    """CSV with one line for each row: its number, x, mean and quantiles of every y or probabilities, log_density."""
    names = units.named("y")
    columns = [(name, x[:, place]) for place, name in enumerate(units.named("x"))]
    if "mean" in told:
        columns += [(f"mean {name}", told["mean"][:, place]) for place, name in enumerate(names)]
    if "quantiles" in told:
        of_level = enumerate(f"q{level:g}" for level in levels)
        columns += [(f"{q} {name}", told["quantiles"][:, i, d]) for i, q in of_level for d, name in enumerate(names)]
    if "probability" in told:
        columns += [(f"probability {k}", column) for k, column in enumerate(told["probability"].T)]
    if "log_density" in told:
        columns.append(("log_density", told["log_density"]))
    rows = zip(*(column.tolist() for _, column in columns), strict=True)
    return as_csv(["row", *(name for name, _ in columns)], ((i, *map(number, row)) for i, row in enumerate(rows, 1)))


def sample_table(units: Units, samples: Tensor) -> bytes:
    """CSV with one line for each of the samples [B, S, Dy]: the number of its row, its own, and y."""
    lines = (
        (row, draw, *map(number, values))
        for row, several in enumerate(samples.tolist(), 1)
        for draw, values in enumerate(several, 1)
    )
    return as_csv(["row", "sample", *units.named("y")], lines)


def number(value: float) -> str:
    """As many digits as every float64 keeps: deviations may be small beside a mean."""
    return f"{value:.15g}"


def as_csv(titles: Sequence[str], lines: object) -> bytes:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(titles)
    writer.writerows(lines)  # type: ignore[arg-type]
    return file.getvalue().encode()
