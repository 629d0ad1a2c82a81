"""Batches that keep coming when a loader worker dies: new workers go on with the batch that the trainer waits for.

torch tells of a dead worker by raising from a SIGCHLD handler, in the middle of whatever runs: an optimizer step, a
collective, a checkpoint. So it is told not to watch these workers. They are looked at before each batch instead, which
takes a microsecond, treats all start methods alike and leaves a queue alone that a dying worker may have half written.
A worker that dies while the trainer waits for a batch is found by torch's own look, every 5 seconds.
One that lives and sends nothing is ended by silent_workers.py.
"""

import logging
import select
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch.utils.data import DataLoader
from torch.utils.data._utils import signal_handling

from datamodules.bounded_reader import Reader
from datamodules.silent_workers import SilenceWatch
from datamodules.worker_trace import WorkerTrace

LOG = logging.getLogger("fewstep.data")
CALM = 1000  # batches without a death after which earlier ones are forgotten
SETTLE = 1000  # milliseconds in which a process that broke its connection must turn out dead
END = object()
REMEDIES = {
    -signal.SIGKILL: "memory is probably short, so lower num_workers or loader.prefetch",
    -signal.SIGALRM: "look at the disk or raise worker_timeout",
    -signal.SIGBUS: "/dev/shm is probably full, so enlarge it or lower num_workers or loader.prefetch",
}


class WorkersLostError(RuntimeError):
    """Workers die too often; `line` is all that the user need be told."""

    @property
    def line(self) -> str:
        return str(self)


class RestartingLoader:
    """Iterates like the DataLoader that it keeps, and keeps another one when workers die.

    Args:
        build: makes a DataLoader with workers over `source`.
        source: its data set; it notes what it reads in `trace`, leaves out the samples in the set `quarantined`, and
            names them with `where(sample)`.
        begin: told, before each pass and after each restart, how many batches of the pass have been handed over. What
            the loader asks its workers for must go on from there.
        restarts: deaths, with fewer than CALM batches between them, after which the next is a WorkersLostError. A death
            at the same sample as one of them is not counted: that sample is quarantined.
        timeout: seconds that a worker may take for one sample; 0 means for ever (a batch that is lost still is found).
    """

    def __init__(
        self, build: Callable[[], DataLoader], source: Any, begin: Callable[[int], None], restarts: int, timeout: float
    ):
        self.build, self.source, self.begin, self.restarts, self.timeout = build, source, begin, restarts, timeout
        self.deaths, self.calm, self.suspects = 0, 0, set()
        self.loader: DataLoader | None = None
        self.reader: Any = None  # the DataLoader's iterator, which owns the worker processes
        self.watch = select.poll()  # their sentinels: file descriptors that become readable when a process ends
        self.inside = False  # whether the reader has begun this pass
        self.silence = SilenceWatch(self._awaited, lambda: self.reader._workers, timeout)

    def __iter__(self) -> Iterator[Any]:
        done, self.inside = 0, False
        if self.loader is not None and not self.loader.persistent_workers:
            self.loader, self.watch = None, select.poll()
        with self.silence.on():
            while (batch := self._next(done)) is not END:
                done += 1
                self.calm += 1
                yield batch

    def _next(self, done: int) -> Any:
        """The next batch or END, from as many loaders as it takes."""
        while True:
            try:
                if not self.watch.poll(0):
                    if not self.inside:
                        self._open(done)
                    with self.silence.waiting():
                        return next(self.reader, END)
            except Exception:
                if not self.watch.poll(SETTLE):
                    raise  # a fault of the data set, not a death
            self._bury()

    def _open(self, done: int) -> None:
        """Begin a pass, or go on with it after `done` batches."""
        self.begin(done)
        again = self.loader is not None
        if not again:
            self.loader = self.build()
            self.source.trace = WorkerTrace(self.loader.num_workers, self.timeout)
        restarted = self.reader is not None and not again
        waiting = self.silence.waiting() if again else nullcontext()  # a new pass begins with a word of every worker
        with torch.random.fork_rng(devices=[], enabled=restarted), sigchld_ignored(), waiting:
            self.reader = iter(self.loader)  # draws a random number, which must not shift those of the training
            signal_handling._remove_worker_pids(id(self.reader))
            signal_handling._set_worker_pids(id(self.reader), ())  # its own end removes them once more
        if not again:
            self.reader = Reader.of(self.reader)
            for worker in self.reader._workers:
                self.watch.register(worker.sentinel, select.POLLIN)
        self.inside = True

    def _awaited(self) -> list[tuple[Any, tuple[int, int]]]:
        """The worker whose batch comes next, or all where a pass begins, and signs of life; asked by another thread."""
        workers, found = self.reader._workers, self.reader._task_info.get(self.reader._rcvd_idx)
        numbers = [found[0]] if found else range(0 if self.inside else len(workers))
        return [(workers[number], self.source.trace.life(number)) for number in numbers]

    def _bury(self) -> None:
        """Say who died of what, end the other workers, and leave it to _open to start new ones; or give up."""
        ended = {sentinel for sentinel, _ in self.watch.poll(0)}
        dead = {number: w for number, w in enumerate(self.reader._workers) if w.sentinel in ended}
        lines, samples = [], set()
        for number, worker in dead.items():
            worker.join(SETTLE / 1000)
            sample = self.source.trace.last(number)
            reading = "between batches" if sample is None else f"while reading {self.source.where(sample)}"
            whose = f"loader worker {number} of {self.loader.num_workers} (pid {worker.pid})"
            lines.append(f"{whose} {self._end(worker)} {reading}")
            samples |= set() if sample is None else {sample}
        self.reader._shutdown_workers()
        self.loader, self.watch, self.inside = None, select.poll(), False
        codes = [None if worker.pid in self.silence.ended else worker.exitcode for worker in dead.values()]
        self._account("; ".join(lines), samples, codes)

    def _end(self, worker: Any) -> str:
        code = worker.exitcode
        if worker.pid in self.silence.ended:
            return (
                f"was ended, as no batch or sign of life had come from it for {self.silence.ended[worker.pid]:.0f} s,"
            )
        if code is None or code >= 0:
            return f"ended with exit code {code}"
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return f"was killed by {name}" + (f" after {self.timeout:g} s" if -code == signal.SIGALRM else "")

    def _account(self, story: str, samples: set[int], codes: list[int | None]) -> None:
        if self.calm >= CALM:
            self.deaths, self.suspects = 0, set()
        self.calm = 0
        if repeated := samples & self.suspects:
            self.source.quarantined |= repeated
            self.suspects -= repeated
            names = ", ".join(map(self.source.where, sorted(repeated)))
            LOG.warning("%s; left out from now on: %s; the loader is restarted", story, names)
            return
        self.deaths += 1
        self.suspects |= samples
        if self.deaths > self.restarts:
            remedy = next((REMEDIES[code] for code in codes if code in REMEDIES), "num_workers=0 shows where it fails")
            used = f"loader.restarts={self.restarts} is used up" if self.restarts else "loader.restarts=0"
            raise WorkersLostError(f"{story}; {used}: {remedy}")
        LOG.warning("%s; the loader is restarted (%d of %d)", story, self.deaths, self.restarts)


@contextmanager
def sigchld_ignored() -> Iterator[None]:
    """Without torch's handler: a worker may die before it can be told not to watch it."""
    if threading.current_thread() is not threading.main_thread():
        yield  # handlers belong to the main thread
        return
    signal_handling._set_SIGCHLD_handler()  # sets it once per process: not inside, where it would stay
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, handler)
