"""Keep validations, stops and checkpoints out of the middle of a step whose gradients are being accumulated."""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler, ModelCheckpoint


class AccumulationWindows(Callback):
    """With accumulated gradients, let validate, stop and save only where an optimizer step is complete.

    A checkpoint holds no gradients: written between the batches of one step, it would lose those gathered so far, and
    the resumed run would end with other weights. So a validation that falls due between them waits for the step, at
    most accumulate_grad_batches - 1 batches; two that fall into one step become one. A stop that another callback
    asks for and the saves of ModelCheckpoint wait in the same way.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        loop = trainer.fit_loop.epoch_loop
        loop._should_check_val_fx = _ValidationDue(trainer, loop._should_check_val_fx)
        for saver in trainer.checkpoint_callbacks:
            if isinstance(saver, ModelCheckpoint):
                saver.on_train_batch_end = partial(_unless_accumulating, saver.on_train_batch_end)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for callback in trainer.callbacks:  # Lightning asks it at the start of an epoch only; its own check is over
            if isinstance(callback, GradientAccumulationScheduler):
                callback.on_train_epoch_start(trainer)
        loop = trainer.fit_loop.epoch_loop
        lost = loop.batch_progress.current.ready % trainer.accumulate_grad_batches
        if lost and loop._should_accumulate() and trainer.is_global_zero:  # of an earlier version, or another window
            print(f"resume  gradients of {lost} batches between two steps are not in the checkpoint", file=sys.stderr)


class _ValidationDue:
    """In place of Lightning's `_should_check_val_fx`, a function of the position alone, as a resume needs it."""

    def __init__(self, trainer: Trainer, due: Callable[[Any], bool]) -> None:
        self.trainer, self.due, self.stop_waits = trainer, due, False

    def __call__(self, fetcher: Any) -> bool:
        trainer, loop = self.trainer, self.trainer.fit_loop.epoch_loop
        if loop._should_accumulate():
            self.stop_waits, trainer.should_stop = self.stop_waits or trainer.should_stop, False
            return False
        trainer.should_stop, self.stop_waits = trainer.should_stop or self.stop_waits, False
        return self.due(fetcher) or self._fell_due_before()

    def _fell_due_before(self) -> bool:
        """Whether a validation was due after an earlier batch of the step that is now complete."""
        trainer, loop = self.trainer, self.trainer.fit_loop.epoch_loop
        every = trainer.val_check_batch
        size = (loop.batch_progress.current.ready - 1) % trainer.accumulate_grad_batches + 1
        if size <= 1 or every in (None, float("inf")) or not loop._should_check_val_epoch():
            return False
        done = loop.batch_idx + 1 if trainer.check_val_every_n_epoch is not None else loop.total_batch_idx + 1
        return done // every > (done - size) // every


def _unless_accumulating(hook: Callable[..., None], trainer: Trainer, *args: Any) -> None:
    if not trainer.fit_loop._should_accumulate():
        hook(trainer, *args)
