"""Which sample each loader worker is reading, in memory that outlives the worker; and a deadline for reading it."""

import os
import signal
import threading
import time

import torch
from torch.utils.data import get_worker_info

ORPHAN = 5.0  # seconds between two looks for the trainer
BUSY, RESTING = -2, -1  # with what has no deadline (starting, fetching a shard); done with a batch


class WorkerTrace:
    """Two whole numbers per worker in shared memory: SIGKILL cannot take back what stands there. Pickles to workers.

    Args:
        workers: how many there are.
        timeout: seconds that one sample may take; then the kernel ends the worker (SIGALRM), whatever hangs. 0: no end.
    """

    def __init__(self, workers: int, timeout: float = 0.0):
        self.samples = torch.tensor([[BUSY, 0]] * workers).share_memory_()  # int64 [workers, (sample, signs of life)]
        self.timeout, self.own = timeout, None

    def reading(self, sample: int) -> None:
        """This worker begins with that sample (a number from 0); costs less than a microsecond."""
        self._note(sample)
        if self.timeout:
            signal.setitimer(signal.ITIMER_REAL, self.timeout)

    def rest(self) -> None:
        """This worker has read its batch."""
        self._note(RESTING)
        if self.timeout:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def busy(self) -> None:
        """This worker is alive, with work that may take any time; called with every part of it that is done."""
        self._note(BUSY)

    def last(self, worker: int) -> int | None:
        """The sample that a worker is reading, or was when it died; None between batches."""
        sample = int(self.samples[worker, 0])
        return None if sample < 0 else sample

    def life(self, worker: int) -> tuple[int, int]:
        """What a worker does (a sample, BUSY or RESTING) and a number that changes whenever it begins something."""
        doing, signs = self.samples[worker].tolist()
        return doing, signs

    def _note(self, doing: int) -> None:
        if self.own is None:
            number = get_worker_info().id
            self.own = self.samples[number].numpy()  # writing to a tensor would cost ten times as much
        self.own[0] = doing
        self.own[1] += 1


def start_worker(number: int) -> None:
    """What a worker does first: a signal meant for the trainer (fork inherits its handlers) must not end a worker."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()


def end_with(parent: int) -> None:
    """End this process when its trainer is gone: torch's own end may wait for it to read what is still in the pipe."""
    while os.getppid() == parent:
        time.sleep(ORPHAN)
    os.kill(os.getpid(), signal.SIGKILL)
