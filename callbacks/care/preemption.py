"""Save and leave together when the scheduler takes the machine away."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import distributed

from callbacks.care.stop_signals import STOP_SIGNALS, Stopped
from callbacks.checkpoints.last_checkpoint import LastCheckpoint
from callbacks.checkpoints.loop_position import epoch_ends, validation_follows
from callbacks.checkpoints.printed_commands import resume_flags
from fewstep.one_line import one_line


class Preemption(Checkpoint):
    """After SIGTERM, SIGUSR1 or Ctrl-C: finish the step, write checkpoints/last.ckpt, end with 143, 75 or 130.

    The signal is only noted. One process looks after every optimizer step. Several agree every `every_n_steps` steps
    by one all-reduce over CPUs (0.2 ms) which no GPU waits for, so it matters not which of them got the signal. During
    validation they look after every batch; what was validated is dropped and done again by the resumed run, which goes
    on bit for bit. In the last validation of a run nothing is left to save: the run ends after it, without the test.

    signals: names of those that stop a run; SIGINT is always one. Exit codes: stop_signals.exit_code.
    It is a `Checkpoint` because Lightning calls these after all other callbacks, the moving average included.
    Errors: `Stopped` (a SystemExit); ValueError for bad options.
    """

    def __init__(self, every_n_steps: int = 10, signals: Sequence[str] = ("SIGTERM", "SIGUSR1")) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps={every_n_steps}: of preemption; give at least 1")
        self.every_n_steps = every_n_steps
        self.signals = tuple(signals)
        self._installed = False
        self._group: Any = None
        self._last_step = -1
        self._looks = 0
        self._code = 0  # what all ranks have agreed to exit with
        self._rewinds = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        silence_lightning(trainer)
        self._installed = STOP_SIGNALS.install() or self._installed
        STOP_SIGNALS.add(self.signals)
        if stage == "fit" and trainer.world_size > 1 and distributed.get_backend() not in ("gloo", "fake"):
            timeout = getattr(trainer.strategy, "_timeout", None)
            self._group = distributed.new_group(backend="gloo", timeout=timeout)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._last_step = trainer.global_step
        STOP_SIGNALS.deferred = not trainer.fast_dev_run

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if trainer.global_step == self._last_step:  # gradients are being accumulated: no place to go on from
            return
        self._last_step = trainer.global_step
        if self._agreed(trainer) and not validation_follows(trainer) and not epoch_ends(trainer):
            self._stop(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._code and epoch_ends(trainer) and not training_is_over(trainer):
            self._stop(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            # A validation that was done again after a resume has been counted twice in part.
            trainer.fit_loop.epoch_loop.val_loop.batch_progress.total.reset_on_restart()
            if self._code and not training_is_over(trainer):
                self._stop(trainer)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if STOP_SIGNALS.deferred and not training_is_over(trainer) and self._agreed(trainer):
            self._stop(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._agreed(trainer, now=True):
            self._leave(trainer, "training is complete and saved, the test is left")
        STOP_SIGNALS.deferred = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        STOP_SIGNALS.deferred = False
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._installed:
            STOP_SIGNALS.uninstall()
            self._installed = False

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._rewinds:
            rewind_validation(checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"])

    def _agreed(self, trainer: Trainer, now: bool = False) -> bool:
        """Whether any rank was asked to stop, the same answer on all; every rank calls this equally often."""
        self._looks += 1
        if trainer.world_size == 1:
            self._code = STOP_SIGNALS.code
        elif now or self._looks % self.every_n_steps == 0:
            code = torch.tensor([STOP_SIGNALS.code])
            distributed.all_reduce(code, op=distributed.ReduceOp.MAX, group=self._group)
            self._code = int(code)
        return self._code != 0

    def _stop(self, trainer: Trainer) -> None:
        savers = [c for c in trainer.checkpoint_callbacks if isinstance(c, LastCheckpoint)]
        if not savers:
            self._leave(trainer, "not saved, there is no last_checkpoint callback")
        how = f"go on with {resume_flags(trainer.default_root_dir)}"
        self._rewinds = bool(trainer.validating)
        try:
            savers[0].save(trainer)
        except Exception as error:
            self._leave(trainer, f"not saved: {one_line(error, 300)}")
        failed = getattr(trainer.strategy.checkpoint_io, "failed", None)
        if failed is not None and failed(savers[0].path(trainer)):
            self._leave(trainer, f"not saved, as warned; the previous checkpoint is intact; {how}")
        self._leave(trainer, f"saved {savers[0].path(trainer)}; {how}")

    def _leave(self, trainer: Trainer, outcome: str) -> None:
        name = STOP_SIGNALS.name or "a signal to another rank"
        raise Stopped(self._code, f"stopped by {name} after step {trainer.global_step}: {outcome}", together=True)


def silence_lightning(trainer: Trainer) -> None:
    """Lightning 2.6 answers SIGTERM with a broadcast inside the handler, which deadlocks, and with exit code 0.

    Its check of every batch for such a signal is a broadcast, too, and waits for the GPU.
    """
    trainer._signal_connector.register_signal_handlers = lambda: None
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None


def training_is_over(trainer: Trainer) -> bool:
    """Whether all optimizer steps are done."""
    return 0 < trainer.max_steps <= trainer.global_step


def rewind_validation(progress: dict[str, Any]) -> None:
    """Let the loops' state say that validation has been asked for and none of its batches is done."""
    before = progress["total"]["ready"] - progress["current"]["ready"]
    for counts, done in ((progress["total"], before), (progress["current"], 0)):
        counts.update(ready=done + 1, started=done + 1, processed=done, completed=done)
    progress["is_last_batch"] = False
