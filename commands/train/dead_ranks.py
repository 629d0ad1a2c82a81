"""End every rank, soon and with a clear line, when one of them has died."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, OnExceptionCheckpoint
from lightning.pytorch.strategies.launchers import subprocess_script
from torch import distributed

from callbacks.care.stop_signals import INTERRUPTED, REQUEUE, TERMINATED
from callbacks.checkpoints.printed_commands import resume_flags
from fewstep.one_line import one_line

LAUNCHER_VARIABLE = "FEWSTEP_LAUNCHER_PID"  # set by rank 0, inherited by the ranks that it starts
POLL = 0.2  # seconds between two looks
GRACE = 10.0  # seconds for the main thread to notice by itself
CLOSING = 90.0  # seconds for a main thread that has noticed, to close its loggers
LOST_CONNECTION = re.compile(r"\bgloo\b|nccl", re.IGNORECASE)
PASSED_ON = (2, REQUEUE, INTERRUPTED, TERMINATED)  # exit codes of a rank that become the job's


class RankWatch:
    """Rank 0 watches the ranks that it started, each of those watches rank 0; what other launchers start they watch.

    Lightning looks after its ranks every 5 s and kills itself with them, silently; a rank whose rank 0 was killed waits
    in a collective, for half an hour by default. No collective is used here: a dead rank could not answer it.
    folder: the run directory, for the line that says how to go on.
    """

    def __init__(self, trainer: Trainer, folder: Path) -> None:
        refuse_collectives_in_exceptions(trainer)
        self._trainer, self._folder = trainer, folder
        self._finished = threading.Event()
        self._loss: tuple[str, int] | None = None  # what happened, exit code
        strategy, launcher = trainer.strategy, trainer.strategy.launcher
        # Under torchrun there is such a launcher, too, and it starts nothing.
        self._launches = (
            isinstance(launcher, subprocess_script._SubprocessScriptLauncher)
            and not strategy.cluster_environment.creates_processes_externally
        )
        self._launcher = launcher if self._launches else None

    def start(self) -> None:
        """Begin to watch, before any rank is started."""
        refuse_addresses_of_the_dead(os.environ)
        parent = os.environ.get(LAUNCHER_VARIABLE)
        if parent is not None:
            self._watch(lambda: None if os.getppid() == int(parent) else self._dead_parent())
        elif self._launches:
            os.environ[LAUNCHER_VARIABLE] = str(os.getpid())
            subprocess_script._launch_process_observer = lambda children: None
            self._watch(self._dead_child)

    def finish(self, failed: bool) -> int:
        """Stop watching; rank 0 outlives its ranks and returns 1 if one of them failed, else 0."""
        self._finished.set()
        if LAUNCHER_VARIABLE not in os.environ or not self._launches or not self._children():
            return 0
        os.environ.pop(LAUNCHER_VARIABLE)
        deadline = time.monotonic() + (5.0 if failed else 60.0)
        for child in self._children():
            try:
                child.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
        return int(any(child.wait() != 0 for child in self._children()))

    def explain(self, error: BaseException) -> tuple[str, int] | None:
        """One line and an exit code for an error that another rank's death caused; None for any other error.

        The line is empty on a rank whose rank 0 lives and says it.
        """
        if self._trainer.world_size == 1 or not lost_connection(error):
            return None
        deadline = time.monotonic() + 2.0
        while self._loss is None and time.monotonic() < deadline:  # the connection breaks before the process is gone
            time.sleep(POLL / 4)
        if self._loss is None and LAUNCHER_VARIABLE in os.environ and not self._launches:
            return "", 1
        what, code = self._loss or (f"another rank is gone ({one_line(error, 120)})", 1)
        return self._line(what), code

    def _children(self) -> list[subprocess.Popen]:
        return self._launcher.procs if self._launcher is not None else []

    def _dead_parent(self) -> tuple[str, int]:
        return f"rank {self._trainer.global_rank - self._trainer.local_rank} is gone", 1

    def _dead_child(self) -> tuple[str, int] | None:
        for number, child in enumerate(self._children(), 1):
            if code := child.poll():
                how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
                return f"rank {self._trainer.global_rank + number} {how}", code if code in PASSED_ON else 1
        return None

    def _watch(self, look: Callable[[], tuple[str, int] | None]) -> None:
        def work() -> None:
            while (loss := look()) is None:
                if self._finished.wait(POLL):
                    return
            self._loss = loss
            if self._finished.wait(GRACE) or (self._trainer.interrupted and self._finished.wait(CLOSING)):
                return
            for child in self._children():
                child.kill()
            sys.stderr.write(self._line(loss[0]) + "\n")
            sys.stderr.flush()
            os._exit(loss[1])

        threading.Thread(target=work, daemon=True, name="rank-watch").start()

    def _line(self, what: str) -> str:
        last = self._folder / "checkpoints" / "last.ckpt"
        found = f"{last} is intact; go on with {resume_flags(self._folder)}"
        rest = found if last.is_file() else "no checkpoint was written yet"
        return f"error on rank {self._trainer.global_rank}: {what}; {rest}"


def lost_connection(error: BaseException | None) -> bool:
    """Whether a collective failed because a peer did not answer."""
    while error is not None:
        if isinstance(error, distributed.DistError):
            return True
        if isinstance(error, RuntimeError | ConnectionError) and LOST_CONNECTION.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def refuse_addresses_of_the_dead(environment: Mapping[str, str]) -> None:
    """ValueError for torchrun on several machines that would restart ranks but keep one store for them all.

    The new ranks find the old addresses there and wait for ranks that are gone (seen with torch 2.15).
    """
    several = int(environment.get("GROUP_WORLD_SIZE", 1)) > 1
    restarts = int(environment.get("TORCHELASTIC_MAX_RESTARTS", 0)) > 0
    if several and restarts and environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        raise ValueError(
            "--max-restarts would end in ranks that wait for dead ones; set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 and "
            "--rdzv-backend c10d for torchrun, or --max-restarts 0"
        )


def refuse_collectives_in_exceptions(trainer: Trainer) -> None:
    """ValueError for callbacks that save after an exception: with several ranks they would wait for the dead one."""
    for callback in trainer.callbacks if trainer.world_size > 1 else []:
        if isinstance(callback, OnExceptionCheckpoint) or getattr(callback, "save_on_exception", False):
            hint = "set save_on_exception: false" if isinstance(callback, ModelCheckpoint) else "leave it out"
            raise ValueError(f"{type(callback).__name__} would save after an exception and wait for ranks; {hint}")
