"""Go on from the end of an epoch as if nothing had happened."""

from functools import partial
from typing import Any

from lightning.fabric.utilities.types import _Stateful
from lightning.pytorch import Callback, LightningModule, Trainer


class FinishedEpochs(Callback):
    """Mend what Lightning 2.6 gets wrong where a resume meets the end of an epoch.

    A checkpoint written when an epoch was over (ModelCheckpoint's `save_on_train_epoch_end`) goes on with the next
    epoch; Lightning ends the same one twice if `max_steps` is given, and else forgets the position in the data. One
    written when `max_steps` had cut an epoch goes on within it. And schedules on a plateau, whose turn comes after the
    checkpoint was written and which Lightning leaves out after a resume, take their step.
    Errors: ValueError for a checkpoint without the position in the data; Lightning would start from their beginning.
    """

    def __init__(self) -> None:
        self._schedules_wait = False  # the checkpoint was written just before their turn
        self._resumed = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        loop = trainer.fit_loop
        loop._load_combined_loader_states = partial(self._load_position, loop, loop._load_combined_loader_states)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != "fit":
            return
        self._resumed = True
        state = checkpoint["loops"]["fit_loop"]
        epoch, batches = state["epoch_progress"], state["epoch_loop.batch_progress"]
        ready, started, processed = (epoch["current"][name] for name in ("ready", "started", "processed"))
        ended = ready == started == processed
        if ended and batches["is_last_batch"]:  # `restarting` is a matter of the epoch then, whatever ends the run
            trainer.fit_loop._iteration_based_training = lambda: False
            self._schedules_wait = epoch["current"]["completed"] < processed
        elif ended:
            for counts in epoch.values():
                counts["processed"] = counts["completed"] = counts["ready"] - 1

    def _load_position(self, loop: Any, load: Any) -> None:
        if self._resumed:
            self._resumed, stored = False, len(loop._combined_loader_states_to_load)
            loaders = sum(isinstance(loader, _Stateful) for loader in loop._combined_loader.flattened)
            if stored != loaders:
                raise ValueError(
                    f"the checkpoint holds the position of {stored} training loaders, the data have {loaders}; "
                    "resume with the run's own data, or from another checkpoint"
                )
        restarting, loop._restarting = loop._restarting, True
        load()
        loop._restarting = restarting

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.fit_loop.epoch_loop.restarted_on_train_batch_end:
            trainer.fit_loop.epoch_loop.update_lr_schedulers("step", update_plateau_schedulers=True)
        if self._schedules_wait:
            progress = trainer.fit_loop.epoch_progress.current
            progress.completed -= 1
            trainer.fit_loop.epoch_loop.update_lr_schedulers("epoch", update_plateau_schedulers=True)
            progress.completed += 1
        self._schedules_wait = False

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Else a schedule on a plateau is left out: "metrics are not saved in the checkpoint". Now they are.
        trainer.fit_loop._restarting = False
