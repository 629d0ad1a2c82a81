"""Which sample each loader worker is reading, in memory that outlives the worker; and a deadline for reading it."""

import signal

import torch
from torch.utils.data import get_worker_info

RESTING = -1


class WorkerTrace:
    """One whole number per worker in shared memory: SIGKILL cannot take back what stands there. Pickles to workers.

    Args:
        workers: how many there are.
        timeout: seconds that one sample may take; then the kernel ends the worker (SIGALRM), whatever hangs. 0: no end.
    """

    def __init__(self, workers: int, timeout: float = 0.0):
        self.samples = torch.full((workers,), RESTING).share_memory_()  # int64 [workers]
        self.timeout, self.own = timeout, None

    def reading(self, sample: int) -> None:
        """This worker begins with that sample (a number from 0); costs less than a microsecond."""
        if self.own is None:
            number = get_worker_info().id
            self.own = self.samples[number : number + 1].numpy()  # writing to a tensor would cost ten times as much
        self.own[0] = sample
        if self.timeout:
            signal.setitimer(signal.ITIMER_REAL, self.timeout)

    def rest(self) -> None:
        """This worker has read its batch."""
        self.own[0] = RESTING
        if self.timeout:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def last(self, worker: int) -> int | None:
        """The sample that a worker is reading, or was when it died; None between batches."""
        sample = int(self.samples[worker])
        return None if sample == RESTING else sample


def start_worker(number: int) -> None:
    """What a worker does first: a signal meant for the trainer (fork inherits its handlers) must not end a worker."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
