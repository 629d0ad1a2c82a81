"""Which checkpoint of a run is the one to test and to export."""

from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from callbacks.checkpoints.last_checkpoint import LastCheckpoint
from callbacks.checkpoints.remote import is_remote


def best_checkpoint(trainer: Trainer) -> str | None:
    """Path of the best checkpoint by a monitored metric, if there is one."""
    savers = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint) and c.monitor]
    paths = (saver.best_model_path for saver in savers)
    return next((path for path in paths if is_remote(path) or Path(path).is_file()), None)


def best_checkpoint_in(run: Path) -> Path | None:
    """The same of a run's folder, its trainer being gone: the newest that a monitored metric has named best."""
    found = sorted(run.glob("checkpoints/best*.ckpt"), key=lambda file: file.stat().st_mtime_ns)
    return found[-1] if found else None


def last_checkpoint(trainer: Trainer) -> str | None:
    """Path of the newest state of the run, if one has been written."""
    paths = [str(saver.path(trainer)) for saver in trainer.checkpoint_callbacks if isinstance(saver, LastCheckpoint)]
    return next((path for path in paths if Path(path).is_file()), None)
