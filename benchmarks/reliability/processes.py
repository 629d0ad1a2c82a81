"""Processes that cost a second instead of ten: forks of one that has imported everything, each in its own session.

A fork is as good a victim as a fresh interpreter: it has its own memory, files, signals, children and exit code, and
the kernel treats it like any other. What it shares with its parent, imported modules, does not change during a run.
`fork` refuses a process with threads: their locks would be copied, and nobody would ever open them.
"""

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.reliability.promises import Missed


@dataclass
class Process:
    """A child of this process, leader of its session; output: what it writes to stdout and stderr."""

    pid: int
    output: Path
    code: int | None = None
    ended: float | None = None  # time.monotonic() when that was seen

    def poll(self) -> int | None:
        """Exit code, or minus the number of the signal that ended it; None while it runs."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code, self.ended = os.waitstatus_to_exitcode(status), time.monotonic()
        return self.code

    def wait(self, seconds: float) -> int:
        """Exit code; Missed if the process still runs after that many seconds."""
        deadline = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise Missed(f"process {self.pid} still runs after {seconds:.0f} s: {self.tail()}")
            time.sleep(0.005)
        assert self.code is not None
        return self.code

    def signal(self, number: int) -> None:
        """To this process alone."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill_session(self) -> None:
        """SIGKILL to it and to whatever it started, as when a machine goes down."""
        for pid in members(self.pid):
            kill(pid)
        self.signal(signal.SIGKILL)
        self.wait(30)

    def text(self) -> str:
        return self.output.read_text(errors="replace") if self.output.exists() else ""

    def tail(self) -> str:
        """The end of the output, in one line."""
        return " / ".join(self.text().splitlines()[-4:])[-400:]


def fork(action: Callable[[], int], output: Path, environment: Mapping[str, str] | None = None) -> Process:
    """Run `action` in a copy of this process; its result is the exit code."""
    if (threads := len(os.listdir("/proc/self/task"))) > 1:
        raise RuntimeError(f"{threads} threads run here; a fork would copy the locks they hold")
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if not pid:
        _become(action, output, environment or {})
    return Process(pid, output)


def spawn(command: list[str], output: Path, environment: Mapping[str, str] | None = None) -> Process:
    """A fresh interpreter, for what depends on how a process was launched."""
    with output.open("a") as file:
        streams = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": subprocess.STDOUT}
        merged = {**os.environ, **(environment or {})}
        started = subprocess.Popen(command, start_new_session=True, env=merged, **streams)
    started.returncode = 0  # this file waits for it, not the library
    return Process(started.pid, output)


def members(session: int) -> list[int]:
    """Processes of a session that still run, zombies left out."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(entry)) and int(fields[3]) == session and fields[0] != "Z":
            found.append(int(entry.name))
    return found


def children(pid: int) -> list[int]:
    """Processes that this one started and that still run."""
    entries = [entry for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [int(e.name) for e in entries if (fields := _stat(e)) and int(fields[1]) == pid and fields[0] != "Z"]


def kill(pid: int) -> None:
    """SIGKILL, also to a process that is gone already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def eventually(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether the condition comes true within that time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def _stat(entry: Path) -> list[str]:
    """State, parent, group, session, ... of a process; empty if it is gone."""
    try:
        return (entry / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _become(action: Callable[[], int], output: Path, environment: Mapping[str, str]) -> None:
    """Be the new process and leave it as the interpreter would, without unwinding the parent's frames."""
    code: int | str | None = 1
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _redirect(output)
        os.environ.update(environment)
        code = action()
    except SystemExit as stop:
        code = stop.code
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except BaseException:
        traceback.print_exc()
    if isinstance(code, str):
        print(code, file=sys.stderr)
    try:
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def _redirect(output: Path) -> None:
    file = os.open(output, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    for number in (1, 2):
        os.dup2(file, number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
