"""Keep the last step of a run, wherever in an epoch it falls."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint


class SaveLastStep(Callback):
    """Write last.ckpt when `max_steps` is reached: a ModelCheckpoint alone saves only after a validation.

    It is written at the end of the batch, before the epoch is declared over, so that a later resume with a larger
    `max_steps` goes on in the middle of that epoch. Needs a ModelCheckpoint with save_last, whose folder it uses.
    """

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if trainer.global_step != trainer.max_steps or trainer.fast_dev_run:
            return
        for saver in trainer.checkpoint_callbacks:
            if isinstance(saver, ModelCheckpoint) and saver.save_last and saver.dirpath:
                saver.last_model_path = str(Path(saver.dirpath, f"{saver.CHECKPOINT_NAME_LAST}.ckpt"))
                trainer.save_checkpoint(saver.last_model_path)
                return
