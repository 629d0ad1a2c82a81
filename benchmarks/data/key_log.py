"""A module that learns next to nothing and writes down which samples every step saw; kill_and_resume.py reads it."""

import json
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn


class KeyLog(LightningModule):
    """One line {step, rank, world, keys} per training step and process in `log`, written before the step counts."""

    def __init__(self, log: str):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Linear(3, 1)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        line = {"step": self.global_step, "rank": self.global_rank, "world": self.trainer.world_size}
        with Path(f"{self.hparams.log}.{self.global_rank}").open("a") as file:
            file.write(json.dumps({**line, "keys": batch["key"]}) + "\n")
        loss = self.net(batch["image"].mean(dim=(2, 3))).pow(2).mean()
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.log("val/nll", batch["weight"].mean(), batch_size=float(len(batch["key"])), sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)
