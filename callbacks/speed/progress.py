"""How far the run is: one bar on a terminal, one plain line now and then in a log file."""

import math
import time
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich import progress as rich_progress
from rich.console import Console

from callbacks.speed.throughput import Throughput


class Progress(ProgressBar):
    """`step 1200/6000  epoch 5  train/loss 0.812  val/nll 0.731  312 img/s  data 3 %  MFU 41 %  41.2 it/s  ETA 1:56`

    On a terminal the line follows a bar and is refreshed twice a second; elsewhere it is printed every `every_seconds`
    and once at the end. Values are fetched from the device only then, never per step. Only rank 0 speaks.
    """

    def __init__(self, every_seconds: float = 10.0) -> None:
        super().__init__()
        if every_seconds <= 0:
            raise ValueError(f"every_seconds={every_seconds}: of the progress line; it must be positive")
        self.every_seconds = every_seconds
        self._console = Console()
        self._bar: rich_progress.Progress | None = None
        self._enabled = True
        self._interval = 0.5 if self._console.is_terminal else every_seconds

    def enable(self) -> None:
        self._enabled = True

    def disable(self) -> None:
        """Called by Lightning on every rank but the first."""
        self._enabled = False

    def _begin(self, done: int) -> None:
        self._began = self._shown = time.monotonic()
        self._first_step = self._shown_step = done
        if self._enabled and self._console.is_terminal:
            columns = (rich_progress.BarColumn(), rich_progress.TextColumn("{task.description}"))
            self._bar = rich_progress.Progress(*columns, console=self._console, auto_refresh=False, transient=True)
            self._bar.add_task("", total=None)
            self._bar.start()

    def _tick(self, word: str, done: int, total: float, details: str = "", last: bool = False) -> None:
        """Show the state; the caller has checked that it is time to."""
        now = time.monotonic()
        rate = (done - self._shown_step) / max(now - self._shown, 1e-9)
        mean_rate = (done - self._first_step) / max(now - self._began, 1e-9)
        left = clock((total - done) / mean_rate) if math.isfinite(total) and mean_rate > 0 and not last else ""
        time_left = f"took {clock(now - self._began)}" if last else f"ETA {left or 'unknown'}"
        bound = f"/{total:.0f}" if math.isfinite(total) else ""
        text = f"{word} {done}{bound}  {details}{mean_rate if last else rate:.1f} it/s  {time_left}"
        self._shown, self._shown_step = now, done
        if self._bar is not None and not last:
            bar_total = total if math.isfinite(total) else None
            self._bar.update(rich_progress.TaskID(0), completed=done, total=bar_total, description=text, refresh=True)
        else:
            self._end_bar()
            print(text, flush=True)

    def _end_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _due(self) -> bool:
        return self._enabled and time.monotonic() - self._shown >= self._interval

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(trainer.global_step)

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if self._due():
            self._tick("step", trainer.global_step, total_steps(trainer), training_details(trainer))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._enabled:
            step = trainer.global_step
            self._tick("step", step, max(total_steps(trainer), step), training_details(trainer), last=True)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(0)
        self._tested = 0

    def on_test_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self._tested += 1
        if self._due():
            self._tick("test", self._tested, sum(trainer.num_test_batches))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end_bar()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._end_bar()


def total_steps(trainer: Trainer) -> float:
    """Optimizer steps of the whole fit, from max_steps or max_epochs; inf if neither bounds it."""
    by_steps = trainer.max_steps if trainer.max_steps > 0 else math.inf
    epochs = trainer.max_epochs if trainer.max_epochs is not None and trainer.max_epochs >= 0 else math.inf
    per_epoch = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
    return min(by_steps, epochs * per_epoch)


def training_details(trainer: Trainer) -> str:
    """`epoch 5  train/loss 0.812  val/nll 0.731  312 img/s  data 3 %  ` as logged last; at most two values of val."""
    metrics = trainer.callback_metrics
    names = [n for n in ("train/loss",) if n in metrics] + sorted(n for n in metrics if n.startswith("val/"))[:2]
    shown = "".join(f"{name} {plainly(float(metrics[name]))}  " for name in names)
    meters = [c.line() for c in trainer.callbacks if isinstance(c, Throughput)]  # type: ignore[attr-defined]
    speed = "".join(f"{line}  " for line in meters if line)
    return f"epoch {trainer.current_epoch}  {shown}{speed}"


def plainly(value: float) -> str:
    """Four digits that count, without an exponent."""
    return np.format_float_positional(value, precision=4, fractional=False, trim="-")


def clock(seconds: float) -> str:
    """`1:56` or `2:03:09`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
