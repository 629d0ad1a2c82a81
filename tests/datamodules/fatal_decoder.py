"""A decoder that ends the process in which it reads certain samples, as a segmentation fault in a codec would."""

import os
import signal
import sys
import time
from dataclasses import dataclass

from datamodules.image_samples import SampleDecoder


@dataclass(frozen=True)
class FatalDecoder(SampleDecoder):
    """fatal: keys of the samples.

    how: a signal's name, "exit", "hang", "raise", "stop" (StopIteration) or "unpicklable"; "lock" and "half" (kill it
        while it asks whether all is done, or has written a part of a batch), "lock-stop" (stop it there).
    once: folder that remembers who has died; None for every time.
    """

    fatal: tuple[str, ...] = ()
    how: str = "SIGKILL"
    once: str | None = None

    def __call__(self, fields, key, number):
        if key in self.fatal and self._first_time(key):
            if self.how == "unpicklable":
                return super().__call__(fields, key, number) | {"odd": lambda: 0}
            self._end()
        return super().__call__(fields, key, number)

    def _first_time(self, key):
        if self.once is None:
            return True
        try:
            os.close(os.open(os.path.join(self.once, key), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True

    def _end(self):
        if self.how == "exit":
            os._exit(3)
        if self.how == "hang":
            if signal.getitimer(signal.ITIMER_REAL)[0]:  # the deadline, brought near: no other sample can miss it
                signal.setitimer(signal.ITIMER_REAL, 0.01)
            time.sleep(1000)
        if self.how == "stop":
            next(iter(()))
        if self.how == "raise":
            raise RuntimeError("a fault of the data set")
        how = {"lock": "SIGKILL", "lock-stop": "SIGSTOP", "half": "SIGKILL"}.get(self.how, self.how)
        if self.how in ("lock", "lock-stop"):
            torchs_own("done_event")._cond.acquire()
        if self.how == "half":
            queue = torchs_own("data_queue")
            queue._wlock.acquire()
            os.write(queue._writer.fileno(), bytes(2))  # of the four that hold the length
        if how != self.how:
            time.sleep(1)  # the trainer waits by then
        os.kill(os.getpid(), getattr(signal, how))
        time.sleep(10)


def torchs_own(name):
    """A local variable of the function in which torch's worker runs."""
    frame = sys._getframe()
    while frame.f_code.co_name != "_worker_loop":
        frame = frame.f_back
    return frame.f_locals[name]
