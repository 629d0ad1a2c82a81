"""What a process does when it is asked to stop: at once, or at the next point where its state can be saved."""

import contextlib
import os
import signal
import sys
import threading
import time
from types import FrameType

INTERRUPTED, TERMINATED = 130, 143  # 128 + number of the signal, as shells report it
REQUEUE = 75  # EX_TEMPFAIL of sysexits.h: configs/trainer/slurm.sh puts the job back into the queue
DEFAULT_SIGNALS = ("SIGTERM", "SIGUSR1", "SIGINT")
GRACE = 5.0  # seconds that a process may spend outside Python before it is ended all the same


class Stopped(SystemExit):
    """The process was asked to stop. code: for its exit; line: what the user is told; together: all ranks stop here."""

    def __init__(self, code: int, line: str, together: bool = False) -> None:
        super().__init__(code)
        self.line, self.together = line, together


class StopSignals:
    """Handlers of SIGTERM, SIGUSR1 and SIGINT that do no more than note the signal while `deferred` is set.

    Otherwise they raise `Stopped` in the main thread; if that thread waits in native code, for other ranks for example,
    the process ends after GRACE. Later signals change nothing, because schedulers and launchers repeat theirs, except
    that Ctrl-C pressed a second time stops at once. Forked loader workers ignore these signals: their parent ends them.
    """

    def __init__(self) -> None:
        self.deferred = False
        self.code = 0  # exit code that was asked for; 0 while nothing was
        self.name = ""  # of the signal
        self._previous: dict[int, object] = {}
        self._owner = self._previous_descriptor = -1
        self._noted_at = 0.0
        self._installed = 0  # how often; a thread ends the process for its own installation only

    def install(self, names: tuple[str, ...] = DEFAULT_SIGNALS) -> bool:
        """Take over these signals; False where it was done before or in a thread, which Python does not allow."""
        if self._previous or threading.current_thread() is not threading.main_thread():
            return False
        self.deferred, self.code, self.name, self._owner = False, 0, "", os.getpid()
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._previous_descriptor = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self.add(names)
        self._installed += 1
        threading.Thread(target=self._end_if_stuck, args=(self._reader, self._installed), daemon=True).start()
        return True

    def add(self, names: tuple[str, ...]) -> None:
        """Take over more signals. Errors: ValueError for a name that is not one."""
        for name in names:
            number = getattr(signal, name, None)
            if not isinstance(number, signal.Signals) or name in ("SIGKILL", "SIGSTOP"):
                raise ValueError(f"{name} is not a signal that a process can take; choose SIGTERM, SIGUSR1 or SIGUSR2")
            if number not in self._previous and threading.current_thread() is threading.main_thread():
                self._previous[number] = signal.signal(number, self._note)

    def uninstall(self, leaving: bool = False) -> None:
        """Put back what was there before `install`.

        leaving: the process is about to end; once it was asked to, it ignores further requests, which would change its
        exit code.
        """
        for number, handler in self._previous.items():
            before = handler if handler is not None else signal.SIG_DFL
            signal.signal(number, signal.SIG_IGN if leaving and self.code else before)
        self._previous, self.deferred = {}, False
        signal.set_wakeup_fd(self._previous_descriptor)
        os.close(self._writer)  # ends the thread

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:
            return
        again, now = bool(self.code), time.monotonic()
        # A terminal and a launcher may both pass on one Ctrl-C.
        insists = again and number == signal.SIGINT and now - self._noted_at > 1
        if not again:
            self._noted_at, self.name = now, signal.Signals(number).name
        self.code = max(self.code, exit_code(number))
        if insists:
            raise Stopped(self.code, f"stopped by a second {signal.Signals(number).name} without saving")
        if not self.deferred and not again:
            raise Stopped(self.code, f"stopped by {self.name} outside training: there was nothing to save")

    def leave_to_parent(self) -> None:
        """In a forked worker: its signals must not wake the thread of the parent through the inherited pipe."""
        if self._previous:
            with contextlib.suppress(ValueError):
                signal.set_wakeup_fd(-1)

    def _end_if_stuck(self, reader: int, installed: int) -> None:
        """The handlers run only between two steps of Python; the bytes that announce a signal come at any time."""
        while number := os.read(reader, 1):
            if number[0] not in self._previous or self.deferred or self.code:
                continue
            time.sleep(GRACE)
            if self._previous and not self.code and installed == self._installed:
                sys.stderr.write(f"stopped by {signal.Signals(number[0]).name} while waiting; nothing to save\n")
                os._exit(exit_code(number[0]))
        os.close(reader)


def exit_code(number: int) -> int:
    """130 for SIGINT, 143 for the others; on SLURM 75 for those that are sent before the time is up (slurm.sh)."""
    if number == signal.SIGINT:
        return INTERRUPTED
    return REQUEUE if "SLURM_JOB_ID" in os.environ and number != signal.SIGTERM else TERMINATED


STOP_SIGNALS = StopSignals()  # signals belong to the process, not to a trainer
os.register_at_fork(after_in_child=STOP_SIGNALS.leave_to_parent)


@contextlib.contextmanager
def handled(leaving: bool = False):
    """Take over the signals for a `with` block. leaving: see StopSignals.uninstall."""
    installed = STOP_SIGNALS.install()
    try:
        yield STOP_SIGNALS
    finally:
        if installed:
            STOP_SIGNALS.uninstall(leaving)
