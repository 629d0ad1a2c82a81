"""Whether two runs differ by more than chance: differences with their 95 % intervals, in pairs where rows are the same.

A *run* holds, beside what rows.py tells of, "rows": {name: values of the test rows, whose mean the metric is} and
"influence": {name: of each sample on a distance between sets}, where they are known; both in the order of the samples.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewstep.metrics.intervals import bootstrap_mean, influence_interval

TRAINED_WITH = {  # keys of a datamodule that change nothing of what is tested
    *("batch_size", "eval_batch_size", "unpaired_batch_size", "steps_per_epoch", "num_workers", "loader", "seed"),
    *("num_pairs", "val_fraction", "num_unpaired_x", "num_unpaired_y", "shuffle_window", "sampling", "arrays"),
    *("train", "val", "val_path", "num_train", "num_val", "max_skipped", "strict"),
}


class Difference(NamedTuple):
    """Of one run from another in one metric, with its interval; paired: taken on the same rows."""

    value: float
    low: float
    high: float
    paired: bool

    @property
    def clear(self) -> bool:
        """Its interval excludes 0."""
        return self.low > 0 or self.high < 0


def task(run: Mapping[str, Any]) -> Any:
    """What a run was tested on: its data without what only matters in training. Runs of one task compare."""
    return _without(run["data"])


def _without(data: Any) -> Any:
    if isinstance(data, Mapping):
        known = {name: _without(value) for name, value in data.items() if name not in TRAINED_WITH}
        return {name: value for name, value in known.items() if value != {}}
    return data


def by_task(runs: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Numbers of the runs that compare with one another, by the first of each."""
    groups: list[tuple[Any, list[int]]] = []
    for number, run in enumerate(runs):
        mine = task(run)
        known = next((members for other, members in groups if other == mine), None)
        if known is None:
            groups.append((mine, [number]))
        else:
            known.append(number)
    return [members for _, members in groups]


def difference(run: Mapping[str, Any], other: Mapping[str, Any], name: str) -> Difference | None:
    """run - other; None where either has no interval. Without common rows both count as independent."""
    values = run["metrics"].get(name), other["metrics"].get(name)
    if values[0] is None or values[1] is None:
        return None
    found = values[0] - values[1]
    if (rows := _apart(run, other, "rows", name)) is not None and math.isclose(
        float(rows.mean()), found, rel_tol=1e-3, abs_tol=1e-6
    ):
        return Difference(found, *bootstrap_mean(rows), paired=True)
    if (influence := _apart(run, other, "influence", name)) is not None:
        return Difference(found, *influence_interval(found, influence), paired=True)
    ends = run["intervals"].get(name), other["intervals"].get(name)
    if ends[0] is None or ends[1] is None:
        return None
    margin = math.hypot(*((high - low) / 2 for low, high in ends))
    return Difference(found, found - margin, found + margin, paired=False)


def _apart(run: Mapping[str, Any], other: Mapping[str, Any], kind: str, name: str) -> Tensor | None:
    """Values of the one less those of the other, sample by sample."""
    mine, others = run.get(kind, {}).get(name), other.get(kind, {}).get(name)
    if mine is None or others is None or len(mine) != len(others) or len(mine) < 2 or task(run) != task(other):
        return None
    return torch.tensor(mine, dtype=torch.float64) - torch.tensor(others, dtype=torch.float64)
