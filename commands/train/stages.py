"""What the commands of train.py do once data, model and trainer exist."""

import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from lightning.pytorch.utilities.model_helpers import is_overridden

from callbacks.care.stop_signals import Stopped
from callbacks.checkpoints.chosen import best_checkpoint, last_checkpoint
from callbacks.checkpoints.export import Export
from callbacks.checkpoints.reading import read_checkpoint
from callbacks.tracking.trackio_logger import TrackioLogger
from callbacks.tracking.wandb_logger import OfflineFirstWandbLogger
from commands.train.dry_run import DryRun
from commands.train.summary import print_early_stop, print_export, print_metrics, print_next_step
from commands.weight_mismatch import require_same_class, require_same_numbers
from fewstep.one_line import one_line

OF_TRAINING = ".*callbacks used to create the checkpoint need to be provided.*"  # its savers have no part in a test


def fit(
    trainer: Trainer,
    model: LightningModule,
    data: LightningDataModule | None,
    folder: Path,
    checkpoint: Path | None,
    test_after_fit: bool,
) -> None:
    """Train, from `checkpoint` if given; test the best checkpoint, or the last if none is monitored; say what next."""
    exit_code = 1
    try:
        if checkpoint is not None:
            require_same_numbers(read_checkpoint(checkpoint, lazily=True)["state_dict"], model)
        trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        early = early_stop(trainer)  # a test would restore what stood in its checkpoint
        chosen = best_checkpoint(trainer) or last_checkpoint(trainer)
        if chosen and test_after_fit and has_test(model, data):
            results = trainer.test(model, datamodule=data, ckpt_path=chosen, weights_only=True, verbose=False)
            print_metrics(results, f"test metrics of {chosen}")
        exit_code = 0
    except Stopped as stop:
        exit_code = int(stop.code)
        for logger in trainer.loggers:
            if isinstance(logger, OfflineFirstWandbLogger):
                logger.attempt("marking as preempted", logger.experiment.mark_preempting)
        raise
    finally:
        closed = {type(logger): logger.close(exit_code) for logger in trainer.loggers if hasattr(logger, "close")}
    print_next_step(folder, chosen, closed.get(OfflineFirstWandbLogger), closed.get(TrackioLogger))
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Export) and callback.written:
            print_export(callback.written, model)
    if early:
        print_early_stop(early)


def rehearse(
    trainer: Trainer, model: LightningModule, data: LightningDataModule | None, report: DryRun, test_after_fit: bool
) -> None:
    """Run the few steps of a trainer in fast_dev_run, then show the report."""
    trainer.fit(model, datamodule=data)
    if test_after_fit and has_test(model, data):
        trainer.test(model, datamodule=data, verbose=False)
    if trainer.is_global_zero:
        report.check_disk()
        report.show()


def evaluate(trainer: Trainer, command: str, arguments: dict[str, Any]) -> None:
    """validate, test or predict; the metrics of the first two are printed in one table."""
    data = arguments.get("datamodule")
    source = {"validate": "val"}.get(command, command) + "_dataloader"
    if not is_overridden(source, data or arguments["model"]):
        rest = "give --data CLASS" if data is None else f"{type(data).__name__} has no {source}"
        raise ValueError(f"there is nothing to {command}: {rest}")
    if path := arguments["ckpt_path"]:
        stored = read_checkpoint(path, lazily=True)  # Lightning's sharded strategies would run a hostile one
        model = arguments["model"]
        require_same_class(stored, model, path, "the config")
        require_same_numbers(stored["state_dict"], model)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=OF_TRAINING)
        if command == "predict":
            trainer.predict(**arguments, weights_only=True)
            return
        results = getattr(trainer, command)(**arguments, weights_only=True, verbose=False)
    print_metrics(results, f"{command} metrics of {arguments['ckpt_path'] or 'the untrained model'}")


def early_stop(trainer: Trainer) -> str | None:
    """After which step and why a training is shorter than its config says, if it is."""
    stoppers = [c for c in trainer.callbacks if isinstance(c, EarlyStopping)]  # type: ignore[attr-defined]
    reasons = [c.stopping_reason_message for c in stoppers if c.stopping_reason != EarlyStoppingReason.NOT_STOPPED]
    return f"after step {trainer.global_step}: {one_line(reasons[0] or '')}" if reasons else None


def has_test(model: LightningModule, data: LightningDataModule | None) -> bool:
    """Whether there are test data and a test step."""
    return is_overridden("test_dataloader", data or model) and is_overridden("test_step", model)
