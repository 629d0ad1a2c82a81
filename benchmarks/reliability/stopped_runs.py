"""SIGTERM and its like in every pattern: the state is saved at once, the exit code says why, a resume loses nothing."""

import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.reliability import key_log
from benchmarks.reliability.killed_runs import equals, uninterrupted
from benchmarks.reliability.methods import STEPS, options
from benchmarks.reliability.promises import load, no_traceback, require, says
from benchmarks.reliability.training import start

HOLD = 20
INTERRUPTED, TERMINATED, REQUEUE = 130, 143, 75


def stopped(
    folder: Path,
    trial: int,
    rng: random.Random,
    number: int = signal.SIGTERM,
    targets: Sequence[int] = (),
    ranks: int = 1,
    twice: bool = False,
    code: int = TERMINATED,
    environment: dict[str, str] | None = None,
) -> str:
    """Signal these ranks (all if none is named) at a random step, again a moment later if `twice`, and resume."""
    step = rng.randrange(1, STEPS // 2)
    every = {"callbacks__preemption__every_n_steps": 3}  # ranks agree this often; 30 steps are few
    with start(folder, options("ot", folder, hold=HOLD, **every), ranks, environment) as training:
        training.begins(step)
        training.fault(number, *targets)
        if twice:
            time.sleep(rng.uniform(0, 0.3))
            training.fault(number, *targets)
        codes = training.codes()
    require(codes == [code] * ranks, f"exit codes {codes}, promised {code}: {training.tail()}")
    no_traceback(training.text())
    says(training.text(), "^stopped by ")
    begun = key_log.newest_step(folder / "keys")
    saved = load(folder / "run" / "checkpoints" / "last.ckpt")["global_step"]
    require(saved == begun + 1, f"step {begun + 1} was done, the checkpoint is of step {saved}")
    with start(folder, [*options("ot", folder, **every), "--resume", "auto"], ranks) as again:
        again.finishes()
    equals(folder, uninterrupted("ot", folder.parent, ranks))
    return f"exit {code} {training.since_fault():.1f} s after the signal in step {begun}"


def stopped_during_setup(folder: Path, trial: int, rng: random.Random) -> str:
    """SIGTERM before the first step: nothing to save, and nothing is waited for."""
    delay = rng.uniform(0.0, 2.0)
    with start(folder, options("ot", folder, steps=100_000)) as training:
        time.sleep(delay)
        training.fault(signal.SIGTERM)
        codes = training.codes()
    begun = key_log.newest_step(folder / "keys") + 1
    # Before the program has taken over the signal, the kernel ends it: to a shell that is 143, too.
    require(codes[0] in (TERMINATED, -signal.SIGTERM), f"exit codes {codes}, promised {TERMINATED}: {training.tail()}")
    no_traceback(training.text())
    return f"exit {codes[0]} {training.since_fault():.1f} s after the signal, {delay:.1f} s into the run, step {begun}"
