"""Try everything a run needs in a few steps, write nothing, and show what it will cost."""

import resource
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from callbacks.checkpoints.folder import size_of
from commands.train.dry_run_ranks import batches_per_rank, count_batches

CHECKPOINTS_KEPT = 4  # best, last, the one before it, and the one being written


class DryRun(Callback):
    """Collect shapes, times, sizes and memory while two training steps and one validation run.

    folder: where the real run would write; its disk must hold four checkpoints, else `check_disk` raises ValueError.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: dict[str, str] = {"config": "ok"}
        self._step_seconds: list[float] = []
        self._checkpoint_bytes = 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self.rows["train batch"] = describe(batch)
            self.rows["train batches"] = count_batches(trainer.train_dataloader)
            self.rows |= global_batch(batch, trainer)
        self._clock = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._step_seconds.append(time.perf_counter() - self._clock)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.rows.setdefault("validation batch", describe(batch))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validation_clock = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.rows["validation"] = f"{1e3 * (time.perf_counter() - self._validation_clock):.1f} ms for the first batches"
        self.rows["validation batches"] = count_batches(trainer.val_dataloaders)

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        name = f"test batch {dataloader_idx}" if dataloader_idx else "test batch"
        self.rows.setdefault(name, describe(batch))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        first, *others = self._step_seconds
        later = f", the next {1e3 * others[-1]:.1f} ms" if others else ""
        self.rows["training steps"] = f"{len(self._step_seconds)} ran: the first {1e3 * first:.1f} ms{later}"
        parameters = list(pl_module.parameters())
        trainable = sum(p.numel() for p in parameters if p.requires_grad)
        frozen = sum(p.numel() for p in parameters) - trainable
        size = sum(p.numel() * p.element_size() for p in parameters)
        self.rows["weights"] = f"{trainable:,} trainable, {frozen:,} frozen, {size / 1e6:.2f} MB"
        parts = [pl_module.state_dict(), *(o.state_dict() for o in trainer.optimizers)]
        parts += [c.state_dict() for c in trainer.callbacks]  # type: ignore[attr-defined]
        self._checkpoint_bytes = size_of(parts)
        self.rows["checkpoint"] = f"about {self._checkpoint_bytes / 1e6:.2f} MB"
        self.rows |= batches_per_rank(trainer)

    def check_disk(self) -> None:
        """Compare the free disk with four checkpoints; ValueError if they do not fit."""
        place = next(p for p in (self.folder.absolute(), *self.folder.absolute().parents) if p.exists())
        free, need = shutil.disk_usage(place).free / 1e6, CHECKPOINTS_KEPT * self._checkpoint_bytes / 1e6
        self.rows["disk"] = f"{free:,.0f} MB free, {need:,.2f} MB needed for {CHECKPOINTS_KEPT} checkpoints"
        if free < need:
            raise ValueError(f"too little disk at {place}: {self.rows['disk']}; choose another --run_dir")

    def show(self) -> None:
        """Print the table."""
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
        gpu = f", GPU {torch.cuda.max_memory_allocated() / 1e6:,.0f} MB" if torch.cuda.is_available() else ""
        of = " per rank" if "ranks" in self.rows else ""
        self.rows[f"peak memory{of}"] = f"{peak:,.0f} MB{gpu}"
        self.rows["would write to"] = str(self.folder)
        print("dry run: everything works, nothing was written")
        table = Table(show_header=False)
        for name, value in self.rows.items():
            table.add_row(name, value)
        Console().print(table)


def global_batch(batch: Any, trainer: Trainer) -> dict[str, str]:
    """What several ranks do in one optimizer step; nothing for one rank without accumulation."""
    ranks, parts = trainer.world_size, trainer.accumulate_grad_batches
    rows = {"ranks": f"{ranks}, of which this is rank {trainer.global_rank}"} if ranks > 1 else {}
    first = next(iter(batch.values()), None) if isinstance(batch, Mapping) else batch
    if ranks * parts == 1 or not isinstance(first, Tensor | list | tuple):
        return rows
    size, accumulated = len(first), f" x {parts} accumulated batches" if parts > 1 else ""
    return {**rows, "rows per step": f"{size * ranks * parts} = {size} x {ranks} ranks{accumulated}"}


def describe(batch: Any) -> str:
    """`x float32 [128, 4]`, one line for each entry, for a batch of any nesting."""
    if isinstance(batch, Mapping):
        return "\n".join(f"{name} {describe(value)}" for name, value in batch.items())
    if isinstance(batch, Tensor):
        return f"{str(batch.dtype).removeprefix('torch.')} {list(batch.shape)}"
    if isinstance(batch, list | tuple):
        return f"{type(batch).__name__} of {len(batch)}" + (f": {describe(batch[0])}" if batch else "")
    return type(batch).__name__
