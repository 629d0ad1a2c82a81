"""Faults from inside a run, as callbacks: batches that are not finite, and a state that takes long to write."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor


class NonFiniteBatch(Callback):
    """Overwrite the floating-point values of the batches of these steps with NaN, on one rank or (None) on all.

    Steps are counted as batches handed to this process, since a skipped step may not count as a step.
    """

    def __init__(self, steps: Sequence[int], rank: int | None = None) -> None:
        self.steps, self.rank = frozenset(steps), rank

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        number = trainer.fit_loop.epoch_loop.total_batch_idx
        if number in self.steps and self.rank in (None, trainer.global_rank):
            for values in batch.values():
                if isinstance(values, Tensor) and values.is_floating_point():
                    values.fill_(torch.nan)


class Ballast(Callback):
    """Adds this many megabytes of random numbers to every checkpoint."""

    def __init__(self, megabytes: float) -> None:
        numbers = int(megabytes * 1e6 / 4)
        self.ballast = torch.randn(numbers, generator=torch.Generator().manual_seed(0))

    def state_dict(self) -> dict[str, Tensor]:
        return {"ballast": self.ballast}
