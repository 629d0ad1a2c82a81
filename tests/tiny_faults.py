"""Parts of small runs on several processes: a rank that is killed once, and a fused optimizer."""

import os
import signal
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from tests.callbacks.tiny_run import TinyModule


class DiesOnce(Callback):
    """SIGKILL the process of this rank before this step, unless `marker` says that it has happened."""

    def __init__(self, rank: int, step: int, marker: str) -> None:
        self.rank, self.step, self.marker = rank, step, Path(marker)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_rank == self.rank and trainer.global_step == self.step and not self.marker.exists():
            self.marker.write_text(f"{trainer.world_size} ranks")
            os.kill(os.getpid(), signal.SIGKILL)


def dies_before(step: int, marker: Path) -> dict[str, Any]:
    """Such a callback for one rank, as a config has it."""
    return {"class_path": "tests.tiny_faults.DiesOnce", "init_args": {"rank": 0, "step": step, "marker": str(marker)}}


class Blocks(Callback):
    """Put a file where checkpoints were to go, once training has begun: root's writes fail there, too."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.path.touch()


class FusedModule(TinyModule):
    """The tiny regression with fused AdamW."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), self.lr, fused=True)
