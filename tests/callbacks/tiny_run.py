"""A module and a datamodule small enough to train in a second, deterministic enough to compare bit by bit."""

from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn


class TinyNet(nn.Module):
    """Two inputs, one output."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class TinyModule(LightningModule):
    """Regression with noisy inputs: its result shows whether randomness and data order were repeated."""

    def __init__(self, lr: float = 0.01, noise: float = 0.1, net: nn.Module | None = None, fail_at: int = -1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.lr, self.noise, self.fail_at = lr, noise, fail_at
        self.net = net if net is not None else TinyNet()

    def loss(self, batch: dict[str, Tensor], noise: float = 0.0) -> Tensor:
        x = batch["x"] + noise * torch.randn_like(batch["x"]) if noise else batch["x"]
        return (self.net(x) - batch["y"]).pow(2).mean()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        if self.global_step == self.fail_at:
            raise ValueError("training went wrong")
        loss = self.loss(batch, self.noise)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.log("val/nll", self.loss(batch), sync_dist=True)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.log("test/nll", self.loss(batch), sync_dist=True)

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self.net(batch["x"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam([p for p in self.parameters() if p.requires_grad], self.lr)


class OtherModule(TinyModule):
    """A different class with the same weights."""


class TinyLoader:
    """Batch k is a function of k; rank r takes the rows r::world; the position is its state."""

    def __init__(self, rows: dict[str, Tensor], batch_size: int, length: int, rank: int, world: int) -> None:
        self.rows, self.batch_size, self.length, self.rank, self.world = rows, batch_size, length, rank, world
        self.step = 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for _ in range(self.length - self.step % self.length):
            generator = torch.Generator().manual_seed(self.step)
            index = torch.randint(0, len(self.rows["x"]), (self.batch_size,), generator=generator)
            self.step += 1
            yield {name: rows[index][self.rank :: self.world] for name, rows in self.rows.items()}

    def state_dict(self) -> dict[str, int]:
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.step = state["step"]


class FixedBatches:
    """The same batches at every pass."""

    def __init__(self, batches: TinyLoader) -> None:
        self.batches = list(batches)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return iter(self.batches)


class TinyData(LightningDataModule):
    """256 rows of y = sin(x1 x2). `path` "missing" and "late" fail in the constructor and in setup."""

    def __init__(self, path: str = "here", batch_size: int = 16, steps_per_epoch: int = 10) -> None:
        super().__init__()
        self.save_hyperparameters()
        if path == "missing":
            raise FileNotFoundError(f"data folder {path} does not exist; prepare it first")
        self.path, self.batch_size, self.steps_per_epoch = path, batch_size, steps_per_epoch

    def setup(self, stage: str) -> None:
        if self.path == "late":
            raise ValueError("shard late-000000.tar is truncated; prepare it again")
        x = torch.randn(256, 2, generator=torch.Generator().manual_seed(0))
        self.rows = {"x": x, "y": (x[:, :1] * x[:, 1:]).sin()}

    def _loader(self, length: int, training: bool = False) -> Any:
        assert self.trainer is not None
        loader = TinyLoader(self.rows, self.batch_size, length, self.trainer.global_rank, self.trainer.world_size)
        return loader if training else FixedBatches(loader)

    def train_dataloader(self) -> Any:
        return self._loader(self.steps_per_epoch, training=True)

    def val_dataloader(self) -> Any:
        return self._loader(3)

    def test_dataloader(self) -> Any:
        return self._loader(3)

    def predict_dataloader(self) -> Any:
        return self._loader(1)


class OtherData(TinyData):
    """A different class with the same rows."""
