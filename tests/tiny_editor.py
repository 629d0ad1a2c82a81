"""A module that edits pictures without any network: a trained colour is added where the mask allows it."""

from dataclasses import dataclass

import torch
from lightning.pytorch import LightningModule
from torch import nn


@dataclass(frozen=True)
class Strength:
    factor: float = 1.0

    def __post_init__(self) -> None:
        if self.factor < 0:
            raise ValueError(f"factor is {self.factor:g}; give 0 or more")


class TinyEditor(LightningModule):
    def __init__(self, size: int = 8, longest: int = 20, editing: Strength | None = None) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["editing"])
        self.colour = nn.Parameter(torch.zeros(3))
        self.editing = editing or Strength()

    def training_step(self, batch, batch_idx):
        loss = (self.colour - 1).square().sum()
        self.log("train/loss", loss)
        return loss

    def predict_step(self, batch, batch_idx):
        if long := [text for text in batch["caption"] if len(text) > self.hparams.longest]:
            raise ValueError(f"the prompt {long[0]!r} is too long")
        size = self.hparams.size
        image = batch.get("image", torch.zeros(len(batch["key"]), 3, size, size))
        change = self.editing.factor * self.colour[:, None, None] * batch.get("mask", 1.0)
        return {"image": (image + change * ("target" in batch or "image" not in batch)).clamp(-1, 1)}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.5)
