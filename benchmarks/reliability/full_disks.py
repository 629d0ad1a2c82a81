"""A disk that is full or read-only, for real: a small file system in memory, mounted where the run writes."""

import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.reliability.killed_runs import equals, uninterrupted
from benchmarks.reliability.methods import options
from benchmarks.reliability.promises import Missed, load, no_traceback, require, says
from benchmarks.reliability.training import start

HOLD = 9  # there is a checkpoint, and the next one comes soon
LEFT = 16_384  # bytes: metrics still fit, a checkpoint does not


@contextmanager
def disk(folder: Path, megabytes: int = 4) -> Iterator[Path]:
    """A file system of its own in `folder`."""
    folder.mkdir(parents=True)
    _mount("-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder))
    try:
        yield folder
    finally:
        while folder.is_mount():
            subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, leave: int = LEFT) -> Path:
    """Write a file that takes all space but `leave` bytes."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        while (room := _free(folder) - leave) > 0:
            file.write(bytes(min(room, 1 << 20)))
    return filler


def disk_full(folder: Path, trial: int, rng: random.Random) -> str:
    """The default policy: a clear error, and the previous checkpoint stays."""
    return _ends_the_run(folder, fill, "disk is full")


def disk_full_warned(folder: Path, trial: int, rng: random.Random) -> str:
    """The policy `warn`: the run goes on, and when there is space again its checkpoints are written."""
    changes = {"trainer__plugins__init_args__on_failure": "warn"}
    with disk(folder / "run"), start(folder, options("ot", folder, hold=HOLD, **changes)) as training:
        training.begins(HOLD)
        last = folder / "run" / "checkpoints" / "last.ckpt"
        filler = fill(folder / "run")
        training.happened()
        training.wait_for(lambda: "not written" in training.text(), "a word about the disk", 30)
        load(last)
        filler.unlink()
        training.finishes()
        no_traceback(training.text())
        equals(folder, uninterrupted("ot", folder.parent, 1))
    return "the run went on and wrote its last checkpoint when there was space again"


def read_only(folder: Path, trial: int, rng: random.Random) -> str:
    """In the middle of a run."""
    return _ends_the_run(folder, _make_read_only, "read-only")


def read_only_at_start(folder: Path, trial: int, rng: random.Random) -> str:
    """Before the first step it is the user's mistake."""
    with disk(folder / "run"):
        _make_read_only(folder / "run")
        with start(folder, options("ot", folder)) as training:
            training.happened()
            codes = training.codes()
        require(codes == [2], f"exit codes {codes}, promised 2: {training.tail()}")
        says(training.text(), r"^error: .*read-only")
        no_traceback(training.text())
    return f"exit 2 after {training.since_fault():.1f} s"


def _ends_the_run(folder: Path, fault: Callable[[Path], object], words: str) -> str:
    with disk(folder / "run"), start(folder, options("ot", folder, hold=HOLD)) as training:
        training.begins(HOLD)
        last = folder / "run" / "checkpoints" / "last.ckpt"
        fault(folder / "run")
        training.happened()
        codes = training.codes()
        require(codes == [1], f"exit codes {codes}, promised 1: {training.tail()}")
        says(training.text(), words)
        no_traceback(training.text())
        step = load(last)["global_step"]
    return f"exit 1 {training.since_fault():.1f} s after the fault, checkpoint of step {step} whole"


def _make_read_only(folder: Path) -> None:
    """By a second mount over the first, which stays writable as long as a run holds its lock open for writing.

    Refused for as long as another file is open for writing, so again and again.
    """
    _mount("--bind", str(folder), str(folder))
    for _ in range(2000):
        if not subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], capture_output=True).returncode:
            return
        time.sleep(0.003)
    raise Missed("the file system could not be made read-only")


def _mount(*arguments: str) -> None:
    if subprocess.run(["mount", *arguments], capture_output=True).returncode:
        raise Missed("not tested: no file system can be mounted here")


def _free(folder: Path) -> int:
    state = os.statvfs(folder)
    return state.f_bavail * state.f_frsize
