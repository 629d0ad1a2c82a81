"""Where a run writes: one folder per run, made only once everything that can be wrong has been checked."""

import os
import secrets
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger

from callbacks.checkpoints.restored_paths import restored_saver
from callbacks.checkpoints.restored_state import saver as read_saver
from callbacks.tracking.csv_logger import AppendingCSVLogger
from callbacks.tracking.trackio_logger import TrackioLogger
from callbacks.tracking.wandb_logger import OfflineFirstWandbLogger
from commands.nearest_runs import is_run
from commands.train import run_lock
from commands.train.summary import print_header
from fewstep.files.durable import replace_file
from fewstep.files.plain_reader import shown

RUN_ID_VARIABLE = "FEWSTEP_RUN_ID"  # set by the first process, inherited by the ranks that it starts


def shared_run_id(environment: Mapping[str, str], num_nodes: int = 1) -> str | None:
    """The id that the ranks of one run already agree on: inherited from the first process, or the scheduler's.

    None for a run that starts from one process. Errors: ValueError when several start and share nothing.
    """
    if inherited := environment.get(RUN_ID_VARIABLE):
        return inherited
    if (elastic := environment.get("TORCHELASTIC_RUN_ID", "none")) != "none":
        return elastic
    if "SLURM_JOB_ID" in environment and int(environment.get("SLURM_NTASKS", 1)) > 1:
        return environment["SLURM_JOB_ID"]
    if num_nodes > 1 or int(environment.get("WORLD_SIZE", 1)) > 1:
        raise ValueError(
            "several processes start this run and share no id; add --run_dir DIR, or give torchrun an --rdzv-id"
        )
    return None


def new_run_id() -> str:
    """Time and four random digits, published for the processes that this one will start."""
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    os.environ[RUN_ID_VARIABLE] = name
    return name


def run_name(config_files: Sequence[str | Path]) -> str:
    """Stem of the last config that is not a shared trainer part; for RUN/config.yaml the name of that run's folder."""
    for file in reversed([Path(f).absolute() for f in config_files]):
        if file.name == "config.yaml":
            return file.parent.parent.name
        if file.parent.name != "trainer":
            return file.stem
    return "unnamed"


def refuse_occupied(folder: Path) -> None:
    """ValueError if the folder holds anything: two runs never mix."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"run directory {folder} is a file; choose another one")
    if folder.exists() and any(entry.name != run_lock.NAME for entry in folder.iterdir()):
        raise ValueError(f"run directory {folder} is not empty; continue it with --resume auto or choose another one")


def loggers(folder: Path, project: str, mode: str, trackio: str, config: dict[str, Any]) -> list[Logger]:
    """metrics.csv and, unless they are "disabled", the W&B and the Trackio run of a folder.

    mode: of W&B, "offline" or "online". trackio: "local".
    """
    found: list[Logger] = [AppendingCSVLogger(str(folder))]
    name = f"{folder.absolute().parent.name}-{folder.name}"
    if mode != "disabled":
        found.append(OfflineFirstWandbLogger(str(folder), name, project, mode, config))
    if trackio != "disabled":
        found.append(TrackioLogger(str(folder), name, project, config))
    return found


class RunDirectory(Callback):
    """Create the run directory, save the resolved config there and attach the loggers, just before training starts.

    Until `on_fit_start` the data, the model and (on resume) the checkpoint have been read: a run that cannot start
    leaves nothing behind. `started` is True once a batch has gone through: later errors are not the user's typing,
    unlike a field that the first one lacks. In predict all may be: the prompts and the pictures are. A training
    without a step says so.
    """

    def __init__(
        self,
        folder: Path,
        config_text: str,
        make_loggers: Callable[[], list[Logger]] | None = None,
        continues: bool = False,
    ) -> None:
        self.folder = folder
        self.continues = continues  # the checkpoint resumed from is one of this folder
        self.started = self.trained = False
        self._config_text = config_text
        self._make_loggers = make_loggers

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            if run_lock.hold(self.folder) and not self.continues and is_run(self.folder):
                refuse_occupied(self.folder)  # another process has been here since the command was read
            replace_file(self.folder / "config.yaml", self._config_text.encode())
        print_header(trainer, pl_module, self.folder)
        if self._make_loggers is not None:
            trainer.loggers = self._make_loggers()
            for logger in trainer.loggers:
                logger.experiment  # noqa: B018  # start now: the first logged step should not wait for it

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """A run that was moved still knows its best checkpoint, and none writes where a checkpoint tells it to."""
        states = checkpoint.get("callbacks", {})
        for saver in trainer.checkpoint_callbacks:
            if not isinstance(saver, ModelCheckpoint) or not states.get(saver.state_key):
                continue
            read_saver(states[saver.state_key], f"the checkpoint's {saver.state_key}")
            own = str(self.folder / "checkpoints")
            new = own if self.continues and str(saver.dirpath) == own else None
            states[saver.state_key], strays = restored_saver(states[saver.state_key], saver, new)
            if strays and trainer.is_global_zero and trainer.state.fn == "fit":
                print(f"resume  {shown(strays[0])} is left alone, it is outside {saver.dirpath}; best is counted anew")

    def on_train_batch_end(self, *args: Any) -> None:
        self.started = self.trained = True

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """One line on stderr where a resumed run had no step left; ValueError where a new one made none."""
        if self.trained:
            return
        if not trainer.ckpt_path:
            raise ValueError("not one training step was made: a limit of the trainer or of the data leaves no batch")
        if trainer.is_global_zero:
            limits = {"max_steps": trainer.max_steps, "max_epochs": trainer.max_epochs}
            said = "".join(f", trainer.{name} is {limit}" for name, limit in limits.items() if limit not in (None, -1))
            where = f"the checkpoint is of step {trainer.global_step} in epoch {trainer.current_epoch}"
            print(f"resume  no step is left to train: {where}{said}", file=sys.stderr)

    def on_validation_batch_end(self, *args: Any) -> None:
        self.started = True

    def on_test_batch_end(self, *args: Any) -> None:
        self.started = True
