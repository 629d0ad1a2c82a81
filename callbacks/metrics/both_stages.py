"""One metric for validation and test: three methods become the hooks that Lightning calls in either stage."""

from typing import Any, TypeVar

from lightning.pytorch import LightningModule, Trainer

Metric = TypeVar("Metric", bound=type)


def in_both_stages(metric: Metric) -> Metric:
    """Class decorator: gives a callback the hooks of validation and test. It has, and all processes call,

    * `start(trainer)`: before the first batch;
    * `add(outputs, batch)`: after each batch of dataloader 0, with what the module's step returned;
    * `finish(stage, trainer, module)`: after the last batch; stage is "val" or "test". (`log` is Lightning's own.)
    """

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

    def finish_validation(self: Any, trainer: Trainer, pl_module: LightningModule) -> None:
        self.finish("val", trainer, pl_module)

    def finish_test(self: Any, trainer: Trainer, pl_module: LightningModule) -> None:
        self.finish("test", trainer, pl_module)

    for stage, finish in (("validation", finish_validation), ("test", finish_test)):
        hooks = {f"on_{stage}_epoch_start": start, f"on_{stage}_batch_end": add, f"on_{stage}_epoch_end": finish}
        for name, hook in hooks.items():
            setattr(metric, name, hook)
    return metric
