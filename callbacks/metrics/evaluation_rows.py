"""The rows that an evaluation produced, brought together from every rank."""

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from callbacks.metrics.gathering import gather


class EvaluationRows:
    """Collects batches on each rank; `gather` returns every row once, sorted by index.

    So what is measured on them depends neither on the batch size, nor on the number of ranks, nor on padding.
    """

    def __init__(self) -> None:
        self._batches: list[dict[str, Tensor]] = []

    def add(self, index: Tensor, weight: Tensor, **columns: Tensor) -> None:
        """index int64 [B]: global row number; weight [B]: 0 marks padding; columns: any tensors [B, ...]."""
        keep = weight > 0
        self._batches.append({k: v.detach()[keep].cpu() for k, v in {"index": index, **columns}.items()})

    def gather(self, trainer: Trainer) -> dict[str, Tensor]:
        """All columns [N, ...] on every rank; empty where no rank has a row. Every rank must call it."""
        parts = gather(trainer, [batch for batch in self._batches if len(batch["index"])])
        batches = [batch for part in parts for batch in part]
        if not batches:
            return {}
        columns = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
        order = columns["index"].argsort(stable=True)
        index = columns["index"][order]
        first = torch.ones(len(index), dtype=torch.bool)
        first[1:] = index[1:] != index[:-1]
        return {name: column[order[first]] for name, column in columns.items()}
