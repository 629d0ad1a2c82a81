"""A DataLoader's iterator that ends whatever its workers do: torch's own waits for ever for some of them."""

import sys
import threading
from multiprocessing.util import Finalize
from typing import Any

from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

SHUTDOWN = 15.0  # seconds in which workers can end by themselves


class Reader(_MultiProcessingDataLoaderIter):
    """torch's iterator, for which the end of its workers, wherever it meets them, is the end of waiting for them.

    It ends in SHUTDOWN seconds, too: at the end of the interpreter, of a pass, and when nothing holds it any more.
    torch and multiprocessing would wait for ever for a lock that a dead worker holds, for the rest of half a batch, and
    for a stopped worker, which does not heed SIGTERM.
    """

    @classmethod
    def of(cls, reader: Any) -> "Reader":
        """The same object."""
        reader.__class__ = cls
        reader._workers_done_event = DoneEvent(reader._workers_done_event)
        reader._worker_result_queue.cancel_join_thread()  # the trainer writes into it, too, where memory is pinned
        if not reader._pin_memory:  # of half a batch the rest is waited for, as long as any process could write it
            reader._worker_result_queue._writer.close()
        Finalize(reader, end_all, args=(reader._workers,), exitpriority=0)  # before multiprocessing joins them
        return reader

    def _shutdown_workers(self) -> None:
        if self._shutdown or sys is None or sys.is_finalizing():  # done, or the finalizer has ended the workers
            return
        polite = threading.Thread(target=super()._shutdown_workers, daemon=True)
        try:
            polite.start()
            polite.join(SHUTDOWN)
        except RuntimeError:  # since Python 3.12 none can start once the interpreter ends
            self._shutdown = True
        end_all(self._workers)


class DoneEvent:
    """torch's word to the workers that all is done, asked for without its lock: a worker may be killed holding that."""

    def __init__(self, event: Any):
        self.event, self.done = event, False

    def is_set(self) -> bool:
        """Only the trainer says it."""
        return self.done

    def set(self) -> None:
        """Tell the workers, if no dead one has the lock; the others wait for it then, until they are killed."""
        self.done = True
        if self.event._cond.acquire(True, 1.0):
            self.event._flag.acquire(False)
            self.event._flag.release()
            self.event._cond.release()


def end_all(workers: list) -> None:
    """By the signal that a stopped one heeds, too."""
    for worker in workers:
        worker.kill()
