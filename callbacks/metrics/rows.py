"""One value per image of an evaluation, by key, brought together from every process."""

from collections.abc import Sequence

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from callbacks.metrics.gathering import gather
from fewstep.metrics.intervals import bootstrap_mean


class SampleValues:
    """Collects values on each process; `gather` sorts them by key, so that no mean depends on batches or processes."""

    def __init__(self) -> None:
        self._batches: list[tuple[list[str], dict[str, Tensor]]] = []

    def add(self, keys: Sequence[str], **values: Tensor) -> None:
        """values: [B] each, one for each key; B may be 0."""
        for name, column in values.items():
            if column.shape != (len(keys),):
                raise ValueError(f"{name} must be one value per image, [{len(keys)}], got shape {list(column.shape)}")
        if len(keys):
            self._batches.append((list(keys), {k: v.detach().double().cpu() for k, v in values.items()}))

    def gather(self, trainer: Trainer) -> tuple[list[str], dict[str, Tensor]]:
        """(keys, name -> float64 [N]) on every process; both are empty where there are none. All must call it."""
        batches = [batch for part in gather(trainer, self._batches) for batch in part]
        if not batches:
            return [], {}
        keys = [key for names, _ in batches for key in names]
        columns = {name: torch.cat([values[name] for _, values in batches]) for name in batches[0][1]}
        order = sorted(range(len(keys)), key=lambda i: (keys[i], *(columns[name][i].item() for name in columns)))
        return [keys[i] for i in order], {name: column[order] for name, column in columns.items()}


def intervals(rows: dict[str, Tensor], num_draws: int, seed: int) -> dict[str, tuple[float, float]]:
    """95 % percentile bootstrap intervals of the means over images; images count as independent."""
    return {name: bootstrap_mean(values, num_draws, seed=seed) for name, values in rows.items() if len(values) > 1}
