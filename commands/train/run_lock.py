"""One process at a time writes into a run directory."""

import errno
import fcntl
import os
import socket
import stat
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

NAME = ".lock"
UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF)
LEASE = 120.0  # seconds; a file server gives up the locks of a machine that is gone after 90 (NFS 4)
POLL = 0.2
WAIT_VARIABLE = "FEWSTEP_LOCK_WAIT"  # seconds


class RunLock:
    """A lock on RUN/.lock that lasts as long as this process or until `close`; the file stays.

    The kernel drops it when the process ends, however it ends. Processes that this one starts do not keep it: those
    that run a program do not inherit the descriptor, and forked loader workers close it. Where the file system knows
    no locks, one line says so and the run goes on.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._descriptor: int | None = None

    def acquire(self, patience: float = 0.0) -> None:
        """Take the lock; the folder must exist. Errors: ValueError in one line that names who has it after `patience`.

        patience: seconds to wait for a predecessor that is about to end, or whose machine is gone.
        """
        try:
            descriptor = _open(self.path)
        except (PermissionError, FileNotFoundError) as error:
            self._without(str(error.strerror))
            return
        try:
            self._wait(descriptor, patience)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        with suppress(OSError):  # a full disk: the holder is not named
            if os.fstat(descriptor).st_nlink == 1:
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)

    def _wait(self, descriptor: int, patience: float) -> None:
        deadline, said = time.monotonic() + patience, False
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise ValueError(self._in_use(descriptor)) from None
            except OSError as error:
                if error.errno not in UNSUPPORTED:
                    raise
                self._without(os.strerror(error.errno or 0))
                return
            if not said:
                print(f"{self._in_use(descriptor)}; waiting up to {patience:.0f} s", file=sys.stderr, flush=True)
                said = True
            time.sleep(POLL)

    def _in_use(self, descriptor: int) -> str:
        holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
        holder = holder if holder.isprintable() and holder else "another process"
        return (
            f"run directory {self.path.parent} is in use by {holder}; wait for it, end it, or choose another --run_dir"
        )

    def _without(self, why: str) -> None:
        text = f"warning: {self.path} cannot be locked ({why}): let no other process write into this run directory"
        print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Let others have it; in a forked child the parent keeps it."""
        if self._descriptor is not None:
            with suppress(OSError):
                os.close(self._descriptor)
        self._descriptor = None


_held: dict[Path, RunLock] = {}  # a lock belongs to the process, not to a trainer


def hold(folder: Path) -> bool:
    """Keep every other process out of this folder, which exists, until `release_all`; whether that is new.

    Errors: ValueError in one line that names the process that has it.
    """
    place = folder.resolve()
    if place in _held:
        return False
    lock = RunLock(folder)
    lock.acquire(patience(os.environ))
    _held[place] = lock
    return True


def release_all() -> None:
    """At the end of a command."""
    while _held:
        _held.popitem()[1].close()


os.register_at_fork(after_in_child=lambda: [lock.close() for lock in _held.values()])


def _open(path: Path) -> int:
    """A descriptor of the lock file. ValueError for anything else there: a link would be written through."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise ValueError(f"{path} is not the lock file of a run; delete it") from None
        raise
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise ValueError(f"{path} is not the lock file of a run; delete it")
    return descriptor


def refuse_in_use(folder: Path) -> None:
    """ValueError in one line if a living process writes into this folder; the folder is left as it is."""
    if (folder / NAME).is_file() and folder.resolve() not in _held:
        lock = RunLock(folder)
        descriptor = _open(lock.path)
        try:
            lock._wait(descriptor, 0.0)
        finally:
            os.close(descriptor)


def patience(environment: Mapping[str, str]) -> float:
    """Seconds to wait for a lock: none for a person at a terminal, LEASE for a launcher that starts jobs again."""
    if WAIT_VARIABLE in environment:
        return float(environment[WAIT_VARIABLE])
    elastic = environment.get("TORCHELASTIC_RUN_ID", "none") != "none"
    return LEASE if elastic or "SLURM_JOB_ID" in environment else 0.0
