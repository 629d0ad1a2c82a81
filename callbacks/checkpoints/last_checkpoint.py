"""Keep the newest state of a run, improved or not."""

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from callbacks.checkpoints.folder import remove_leftovers
from callbacks.checkpoints.loop_position import epoch_ends, validation_follows
from callbacks.checkpoints.remote import is_remote, require_store


class LastCheckpoint(Checkpoint):
    """Write checkpoints/last.ckpt after every validation, every `every_n_steps` if given, and at the end of a run.

    Lightning's `save_last` writes only when the monitored metric improves, so that a run on a plateau could not be
    resumed from where it is. At `max_steps` the file is written before the epoch is declared over: a later resume with
    a larger `max_steps` goes on in the middle of that epoch. Where a validation or the end of an epoch follows, which a
    resume from before it would leave out, the file is written after it; what goes on from there exactly needs
    `FinishedEpochs`, too. `AtomicCheckpointIO` keeps the file before it as last-1.ckpt. folder: a path or an address
    such as s3://bucket/run; DEFAULT_ROOT_DIR/checkpoints if not given.
    """

    def __init__(self, every_n_steps: int | None = None, folder: str | None = None) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise ValueError(f"every_n_steps={every_n_steps}: of the last checkpoint; give at least 1 or leave it out")
        self.every_n_steps = every_n_steps
        self.folder = folder
        self._saved_step = 0  # a state that the file holds; nothing is worth one before the first step

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.folder is not None and is_remote(self.folder):
            require_store(self.folder)

    def path(self, trainer: Trainer) -> Path | str:
        """Where the file stands for this trainer: a Path, or a string for an address."""
        if self.folder is not None and is_remote(self.folder):
            return f"{self.folder.rstrip('/')}/last.ckpt"
        return Path(self.folder or Path(trainer.default_root_dir, "checkpoints"), "last.ckpt")

    def save(self, trainer: Trainer) -> None:
        """Write the file now, on every rank together; does nothing outside of fit."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking and not trainer.fast_dev_run:
            self._saved_step = trainer.global_step
            trainer.save_checkpoint(self.path(trainer))

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        own = str(trainer.ckpt_path) == str(self.path(trainer))  # else the file is another one, or an older
        self._saved_step = checkpoint["global_step"] if own else -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        path = self.path(trainer)
        if trainer.is_global_zero and isinstance(path, Path):
            remove_leftovers(path.parent)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if self._is_due(trainer) and not validation_follows(trainer) and not epoch_ends(trainer):
            self.save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._is_due(trainer) and epoch_ends(trainer):
            self.save(trainer)

    def _is_due(self, trainer: Trainer) -> bool:
        step, loop = trainer.global_step, trainer.fit_loop
        if step == self._saved_step or loop._should_accumulate():
            return False
        over = step == trainer.max_steps or (trainer.should_stop and loop._can_stop_early)
        return over or (self.every_n_steps is not None and step % self.every_n_steps == 0)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step != self._saved_step:  # at the end of the last of `max_epochs`, for example
            self.save(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_train_end(trainer, pl_module)  # not called where a resumed run has no step left
