"""A module of a second's training that has something to export, and a stop in the middle of it."""

import os
import signal
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from tests.callbacks.tiny_run import TinyModule


class ExportingModule(TinyModule):
    """Exports the weights of its network."""

    def export(self, folder: str) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        torch.save(dict(self.net.state_dict()), Path(folder, "net.pt"))


class RefusingModule(TinyModule):
    """Has something to export, but not yet."""

    def export(self, folder: str) -> None:
        raise ValueError("not measured yet: validate before the export")


class StopsBefore(Callback):
    """This process asks itself to stop before the batch of a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)
