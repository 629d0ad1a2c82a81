"""A watch on the worker whose batch the trainer waits for: one that shows no sign of life is ended.

A worker can live and send nothing: stopped, locked, or with a batch that was lost on its way. Its end wakes the
trainer, wherever in torch it waits, and is then a death. If it does not, the trainer waits for what others hold: a file
descriptor that another worker has promised with a later batch and cannot give, or the rest of a batch of which the dead
one wrote a half. All of them are ended then.
"""

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Any

from datamodules.worker_trace import RESTING

LOOK = 5.0  # seconds between two looks
LOST = 60.0  # seconds in which a batch must come that has been read
WAKE = 15.0  # seconds in which the end of a worker wakes the trainer; torch looks every five
STARTING = 300.0  # seconds that a worker may take to start, or for the next part of a shard that it fetches


class SilenceWatch:
    """Looks at workers from a thread of its own.

    Args:
        awaited: gives the processes of which something is waited for, and their signs of life, see WorkerTrace.life.
        workers: gives all processes.
        timeout: seconds that a worker may take for one sample; 0 means for ever.
    """

    def __init__(
        self, awaited: Callable[[], list[tuple[Any, tuple[int, int]]]], workers: Callable[[], list], timeout: float
    ):
        self.awaited, self.workers, self.timeout = awaited, workers, timeout
        self.ended: dict[int | None, float] = {}  # seconds for which a worker had been silent, by its pid
        self.count, self.wait = 0, 0  # of all waits; number of the present one, 0 between them

    @contextmanager
    def on(self) -> Iterator[None]:
        """Watch for as long as the context lasts."""
        off = threading.Event()
        threading.Thread(target=self._look, args=(off,), daemon=True, name="silence watch").start()
        try:
            yield
        finally:
            off.set()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The trainer waits for a batch."""
        self.count += 1
        self.wait = self.count
        try:
            yield
        finally:
            self.wait = 0

    def _look(self, off: threading.Event) -> None:
        sign, silence, before = None, 0.0, time.monotonic()
        while not off.wait(LOOK):
            now = time.monotonic()
            passed, before = min(now - before, 2 * LOOK), now  # a job that was suspended hears nobody, either
            found = self.awaited() if (turn := self.wait) else []
            if not found:
                sign = None
                continue
            gone = any(worker.pid in self.ended or died(worker) for worker, _ in found)
            if (turn, found, gone) != sign:
                sign, silence = (turn, found, gone), 0.0
                continue
            silence += passed
            if silence >= (WAKE if gone else max(self._patience(doing) for _, (doing, _) in found)):
                for each in [each for each in self.workers() if not died(each)] if gone else [one for one, _ in found]:
                    self.ended.setdefault(each.pid, silence)
                    each.kill()

    def _patience(self, doing: int) -> float:
        """Seconds without a sign of life that are no fault."""
        if doing == RESTING:
            return max(self.timeout, LOST)
        longest = self.timeout + LOOK if doing >= 0 else max(self.timeout, STARTING)
        return longest if self.timeout else math.inf


def died(worker: Any) -> bool:
    """Whether a process has ended, asked without reaping it."""
    return bool(wait([worker.sentinel], timeout=0))
