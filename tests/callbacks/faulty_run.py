"""The tiny run with numbers that go wrong at chosen steps, and the same training as a bare loop that knows them."""

from collections.abc import Iterator

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from tests.callbacks.tiny_run import FixedBatches, TinyData, TinyModule, TinyNet

INF = float("inf")


def spoil(loss: Tensor, fault: str | None, weight: Tensor) -> Tensor:
    """nan: the loss; gradient: of a finite loss; constant: an infinite loss with finite gradients."""
    if fault == "nan":
        return loss * float("nan")
    if fault == "gradient":
        return loss + (weight * 0).sqrt().sum()  # the derivative of the root is infinite at 0, times 0
    return loss + INF if fault == "constant" else loss


class FaultyModule(TinyModule):
    """`faults`: batch number, counted from 0 over the run, -> what goes wrong there. AdamW with a schedule."""

    def __init__(self, faults: dict[int, str] | None = None, every: int = 0, fused: bool = False) -> None:
        super().__init__(noise=0.0)
        self.faults, self.every, self.fused, self.count = faults or {}, every, fused, 0
        torch.manual_seed(0)
        self.net = TinyNet()

    def fault(self) -> str | None:
        self.count += 1
        if self.every and self.count > 4 and self.count % self.every == 0:
            return "nan"
        return self.faults.get(self.count - 1)

    def training_step(self, batch: dict, batch_idx: int) -> Tensor | None:
        fault = self.fault()
        loss = self.loss(batch)
        self.log("train/squared_loss", loss.detach() * (float("nan") if fault == "nan" else 1))
        return spoil(loss, fault, self.net.layers[0].weight)

    def configure_optimizers(self) -> dict:
        optimizer = torch.optim.AdamW(self.parameters(), 0.05, weight_decay=0.1, fused=self.fused or None)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class ManualModule(FaultyModule):
    """Two steps for each batch, the first around Lightning as in ICDModule; the fault is in the first."""

    def __init__(self, faults: dict[int, str] | None = None, every: int = 0, fused: bool = False) -> None:
        super().__init__(faults, every, fused)
        self.automatic_optimization = False

    def training_step(self, batch: dict, batch_idx: int) -> None:
        wrapped, fault = self.optimizers(), self.fault()
        for optimizer, what in ((wrapped.optimizer, fault), (wrapped, None)):
            wrapped.optimizer.zero_grad()
            self.manual_backward(spoil(self.loss(batch), what, self.net.layers[0].weight))
            torch.nn.utils.clip_grad_norm_(self.parameters(), 1.0)
            optimizer.step()
        self.lr_schedulers().step()


class KeyedData(TinyData):
    """Every sample has a key: `BATCH-ROW`, the batch counted from 0 in each epoch."""

    def train_dataloader(self) -> FixedBatches:
        return FixedBatches(with_keys(super().train_dataloader()))


def with_keys(batches: Iterator[dict]) -> Iterator[dict]:
    for number, batch in enumerate(batches):
        yield {**batch, "key": [f"{number}-{row}" for row in range(len(batch["x"]))]}


def bare_loop(module: FaultyModule, data: KeyedData, accumulate: int = 1, clip: float = 0.0) -> list[Tensor]:
    """Final weights of a loop that leaves out the optimizer steps with a fault in one of their batches."""
    batches = list(data.train_dataloader())
    configured = module.configure_optimizers()
    optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    twice = isinstance(module, ManualModule)
    for first in range(0, len(batches), accumulate):
        for part in range(2 if twice else 1):
            optimizer.zero_grad()
            for number in range(first, first + accumulate):
                (module.loss(batches[number]) / accumulate).backward()
            faulty = any(number in module.faults for number in range(first, first + accumulate))
            if faulty and part == 0:
                continue
            if clip or twice:
                torch.nn.utils.clip_grad_norm_(module.parameters(), clip or 1.0)
            optimizer.step()
        schedule.step()
    return [p.detach().clone() for p in module.parameters()]


def trainer_with(*callbacks: Callback, **settings: object) -> Trainer:
    defaults = {"max_steps": 10, "accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    return Trainer(callbacks=list(callbacks), **defaults | quiet | {"limit_val_batches": 0} | settings)
