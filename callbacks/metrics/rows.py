"""One row of values for each sample of an evaluation, brought together from every process.

So what is measured on them depends neither on the batch size, nor on the number of processes, nor on padding.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fewstep.gathering import gather
from fewstep.metrics.intervals import bootstrap_mean


class SampleValues:
    """One number per image, by key; `gather` sorts them by key."""

    def __init__(self) -> None:
        self._batches: list[tuple[list[str], dict[str, Tensor]]] = []

    def add(self, keys: Sequence[str], **values: Tensor) -> None:
        """values: [B] each, one for each key; B may be 0."""
        for name, column in values.items():
            if column.shape != (len(keys),):
                raise ValueError(f"{name} must be one value per image, [{len(keys)}], got shape {list(column.shape)}")
        if len(keys):
            self._batches.append((list(keys), {k: v.detach().double().cpu() for k, v in values.items()}))

    def gather(self) -> tuple[list[str], dict[str, Tensor]]:
        """(keys, name -> float64 [N]) on every process; both are empty where there are none. All must call it."""
        batches = [batch for part in gather(self._batches) for batch in part]
        if not batches:
            return [], {}
        keys = [key for names, _ in batches for key in names]
        columns = {name: torch.cat([values[name] for _, values in batches]) for name in batches[0][1]}
        order = sorted(range(len(keys)), key=lambda i: (keys[i], *(columns[name][i].item() for name in columns)))
        return [keys[i] for i in order], {name: column[order] for name, column in columns.items()}


class EvaluationRows:
    """Tensors of any shape per row, by the row's number; `gather` returns every row once, sorted by it."""

    def __init__(self) -> None:
        self._batches: list[dict[str, Tensor]] = []

    def add(self, index: Tensor, weight: Tensor, **columns: Tensor) -> None:
        """index int64 [B]: global row number; weight [B]: 0 marks padding; columns: any tensors [B, ...]."""
        keep = weight > 0
        self._batches.append({k: v.detach()[keep].cpu() for k, v in {"index": index, **columns}.items()})

    def gather(self) -> dict[str, Tensor]:
        """All columns [N, ...] on every process; empty where none has a row. All must call it."""
        parts = gather([batch for batch in self._batches if len(batch["index"])])
        batches = [batch for part in parts for batch in part]
        if not batches:
            return {}
        columns = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
        order = columns["index"].argsort(stable=True)
        index = columns["index"][order]
        first = torch.ones(len(index), dtype=torch.bool)
        first[1:] = index[1:] != index[:-1]
        return {name: column[order[first]] for name, column in columns.items()}


def intervals(rows: dict[str, Tensor], num_draws: int = 1000, seed: int = 0) -> dict[str, tuple[float, float]]:
    """95 % percentile bootstrap intervals of the means by log key; rows [N] count as independent."""
    return {name: bootstrap_mean(values, num_draws, seed=seed) for name, values in rows.items() if len(values) > 1}
