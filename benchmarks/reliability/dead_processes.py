"""A loader worker or a rank is killed: the worker is replaced; a rank without its peer ends soon, with a clear line."""

import random
import signal
import time
from pathlib import Path

from benchmarks.reliability.killed_runs import equals, uninterrupted
from benchmarks.reliability.methods import STEPS, VALIDATE_EVERY, options
from benchmarks.reliability.processes import children, eventually, kill, members
from benchmarks.reliability.promises import WITHIN, load, no_traceback, require, says
from benchmarks.reliability.training import find_second_rank, launch, start

WORKERS = 2


def worker_killed(folder: Path, trial: int, rng: random.Random) -> str:
    """One of two loader workers, before the first validation starts others."""
    with start(folder, options("contrastive", folder, hold=VALIDATE_EVERY - 1, workers=WORKERS)) as training:
        training.begins(rng.randrange(1, VALIDATE_EVERY - 3))
        kill(rng.choice(children(training.ranks[0].pid)))
        training.happened()
        training.finishes()
    equals(folder, uninterrupted("contrastive", folder.parent, 1))
    says(training.text(), r"loader worker .* was killed by SIGKILL")
    no_traceback(training.text())
    return "replaced; final weights and samples are those of the undisturbed run"


def workers_killed_for_ever(folder: Path, trial: int, rng: random.Random) -> str:
    """Every worker that appears, until the run gives up."""
    arguments = options("contrastive", folder, workers=WORKERS, steps=100_000)
    with start(folder, arguments) as training:
        training.begins(VALIDATE_EVERY)  # there is a checkpoint
        kills, deadline = 0, time.monotonic() + 60
        while training.running() and time.monotonic() < deadline:
            for worker in children(training.ranks[0].pid):
                kill(worker)
                kills += 1
                training.happened()
            time.sleep(0.2)
        codes = training.codes()
    require(codes == [1], f"exit codes {codes}, promised 1: {training.tail()}")
    says(training.text(), r"loader\.restarts=\d+ is used up")
    load(folder / "run" / "checkpoints" / "last.ckpt")
    return f"gave up after {kills} kills, {training.since_fault():.1f} s after the last"


def rank_killed(folder: Path, trial: int, rng: random.Random, rank: int, launched: bool) -> str:
    """launched: by Lightning from the first rank, as on a workstation; else by something that started both."""
    arguments = options("ot", folder, hold=STEPS - 5)
    step = rng.randrange(8, STEPS // 2)  # there is a checkpoint
    with launch(folder, arguments) if launched else start(folder, arguments, 2) as training:
        training.begins(step)
        if launched and rank == 1:
            pid = find_second_rank(training)
            kill(pid)
            training.happened()
        else:
            training.fault(signal.SIGKILL, rank)
        codes = training.codes()
        left = WITHIN - training.since_fault()
        require(eventually(lambda: not members(training.ranks[0].pid), left), "a process of the job still runs")
    require(0 not in codes, f"exit codes {codes}, promised none of 0: {training.tail()}")
    says(training.text(), r"rank .*(died|dead|killed|gone|lost|ended|SIGKILL)")
    no_traceback(training.text())
    load(folder / "run" / "checkpoints" / "last.ckpt")
    with start(folder, [*options("ot", folder), "--resume", "auto"], 2) as again:
        again.finishes()
    equals(folder, uninterrupted("ot", folder.parent, 2))
    return f"exit codes {codes}, all over {training.since_fault():.1f} s after the kill"
