"""Let what monitors a metric decide after a resume as in a run that nobody disturbed."""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from torch import Tensor, strided

from fewstep.files.plain_reader import named, refuse

KEY = "monitored_metrics"  # in the checkpoint: {"metrics": {name: number}, "should_stop": bool}


class UnknownMetricError(ValueError):
    """A monitored metric that a validation did not log; `line` is all that the user need be told."""

    def __init__(self, monitor: str, measured: list[str]) -> None:
        names = ", ".join(name for name in sorted(measured) if name.startswith(monitor.split("/")[0])) or "none"
        self.line = f"early stopping monitors {monitor}, which is not measured; measured are {names}"
        super().__init__(self.line)


class MonitoredMetrics(Callback):
    """Carry the newest metrics over a resume, and let early stopping judge only where there is something to judge.

    A checkpoint is written after a validation and before the end of its epoch, where early stopping and schedules
    on a plateau look at the metrics, which Lightning forgets: after a resume they would raise, or miss one look. A
    decision to stop is kept, too. What was never measured, in a run shorter than one validation or without validation
    data, is no reason to fail: nothing is judged, which is said at the end. `patience` is the config's.
    Errors: UnknownMetricError once a validation has not logged what is monitored (and `strict` is on); ValueError for
    metrics of a checkpoint that are no numbers.
    """

    def __init__(self) -> None:
        self._stored: dict[str, Any] = {"metrics": {}, "should_stop": False}
        self._patience: list[tuple[EarlyStopping, int]] = []
        self._validated = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        self._patience = [(c, c.patience) for c in trainer.callbacks if isinstance(c, EarlyStopping)]
        for stopper, _ in self._patience:
            stopper._run_early_stopping_check = partial(self._check, stopper, stopper._run_early_stopping_check)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        metrics = {name: value.detach().cpu() for name, value in trainer.callback_metrics.items()}
        metrics = self._stored["metrics"] | metrics  # those of the checkpoint where training had no step left
        stopped = [c for c, _ in self._patience if c.stopping_reason != EarlyStoppingReason.NOT_STOPPED]
        checkpoint[KEY] = {
            "metrics": metrics,
            "should_stop": bool(trainer.should_stop and stopped) or self._stored["should_stop"],
        }

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if KEY in checkpoint:  # absent from those of earlier versions
            self._stored = _checked(checkpoint[KEY])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = self._stored["metrics"]
        trainer.callback_metrics.update({name: value.to(pl_module.device) for name, value in metrics.items()})
        trainer.should_stop = trainer.should_stop or self._stored["should_stop"]
        for stopper, patience in self._patience:
            if stopper.patience != patience:  # changed since the checkpoint
                stopper.patience = patience
                trainer.should_stop = stopper.wait_count >= patience
        self._stored = {"metrics": {}, "should_stop": False}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validated = self._validated or not trainer.sanity_checking

    def _check(self, stopper: EarlyStopping, check: Callable[[Trainer], None], trainer: Trainer) -> None:
        """Early stopping's own look at the metrics, where it can have one."""
        if stopper.monitor in trainer.callback_metrics or trainer.fast_dev_run:
            check(trainer)
        elif self._validated and stopper.strict:
            raise UnknownMetricError(stopper.monitor, list(trainer.callback_metrics))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        names = {c.monitor for c, _ in self._patience} - set(trainer.callback_metrics)
        if names and trainer.is_global_zero and not trainer.fast_dev_run:
            why = "there was no validation" if not self._validated else "no validation logged it"
            print(f"early stopping: {', '.join(sorted(names))} was never measured, {why}", file=sys.stderr)


def _logged(value: Any, name: str) -> None:
    """What Lightning keeps of a logged metric; NaN is one, too."""
    real = isinstance(value, Tensor) and value.numel() == 1 and value.layout is strided and not value.is_meta
    if not real or value.dtype.is_complex or not (value.dtype.is_floating_point or value.dtype.is_signed):
        refuse(value, name, "a number")


def _checked(stored: Any) -> dict[str, Any]:
    """The entry of a checkpoint, which anybody may have written. Errors: ValueError in one line."""
    metrics = stored.get("metrics") if isinstance(stored, dict) else None
    try:
        named(_logged)(metrics, KEY)
    except ValueError as error:
        raise ValueError(f"the checkpoint's {error}; resume from another checkpoint") from None
    return {"metrics": metrics, "should_stop": stored.get("should_stop") is True}
