"""Logs `data/skipped`: training and validation samples that were left out as unusable so far, over all processes."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from fewstep.cadence import due


class SkippedSamples(Callback):
    """Reads `trainer.datamodule.skipped.total`; does nothing for data without such an account."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        account = getattr(trainer.datamodule, "skipped", None)
        if account is not None and due(trainer.global_step, trainer.log_every_n_steps):
            pl_module.log("data/skipped", float(account.total), reduce_fx="sum", sync_dist=True)
