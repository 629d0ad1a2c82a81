"""One metric for validation and test: three methods become the hooks that Lightning calls in either stage."""

from collections.abc import Callable
from typing import Any, TypeVar

from lightning.pytorch import LightningModule, Trainer

Metric = TypeVar("Metric", bound=type)
STAGES = {"validation": "val", "test": "test"}


def in_stages(*stages: str) -> Callable[[Metric], Metric]:
    """Class decorator: gives a callback the hooks of "validation", "test" or both. It has, and all processes call,

    * `start(trainer)`: before the first batch;
    * `add(outputs, batch)`: after each batch of dataloader 0, with what the module's step returned;
    * `add_probes(outputs, batch)`, where there is one: the same for the other dataloaders;
    * `finish(stage, trainer, module)`: after the last batch; stage is "val" or "test". (`log` is Lightning's own.) A
      sanity check, which sees part of the data, ends without it.
    """

    def decorate(metric: Metric) -> Metric:
        for stage in stages:
            for name, hook in _hooks(stage).items():
                setattr(metric, name, hook)
        return metric

    return decorate


in_both_stages = in_stages("validation", "test")


def _hooks(stage: str) -> dict[str, Callable]:
    def start(self: Any, trainer: Trainer, pl_module: LightningModule) -> None:
        self.start(trainer)

    def add(
        self: Any,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if dataloader_idx == 0:
            self.add(outputs, batch)
        elif hasattr(self, "add_probes"):
            self.add_probes(outputs, batch)

    def finish(self: Any, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self.finish(STAGES[stage], trainer, pl_module)

    return {f"on_{stage}_epoch_start": start, f"on_{stage}_batch_end": add, f"on_{stage}_epoch_end": finish}
