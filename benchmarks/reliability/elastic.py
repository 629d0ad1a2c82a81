"""Runs that change their number of processes: the same samples in the same order, and the same curve of the loss."""

import random
from collections import Counter
from pathlib import Path

from benchmarks.reliability import key_log
from benchmarks.reliability.killed_runs import run_until_killed, uninterrupted
from benchmarks.reliability.methods import STEPS, options
from benchmarks.reliability.promises import require
from benchmarks.reliability.training import start

TOLERANCE = 1e-5  # of the loss, relative to its size where that is above 1


def two_one_two(folder: Path, trial: int, rng: random.Random) -> str:
    """2 ranks, killed; 1 rank, killed; 2 ranks to the end of the epoch; loader workers drawn anew for each launch."""
    launches, begun = [], 0
    for ranks, latest in ((2, STEPS // 2), (1, STEPS - 4)):
        workers = rng.choice([0, 1, 2])
        step = rng.randrange(begun + 1, latest)
        begun = run_until_killed("contrastive", folder, step, rng, ranks, workers, resume=ranks == 1)
        launches.append(f"{ranks} x {workers} workers to step {begun}")
        begun = min(begun, STEPS - 6)
    workers = rng.choice([0, 1, 2])
    with start(folder, [*options("contrastive", folder, workers=workers), "--resume", "auto"], 2) as training:
        training.finishes()
    found = key_log.batches(folder / "keys", STEPS)
    counts = Counter(key for batch in found for key in batch)
    require(len(counts) == sum(map(len, found)), f"{sum(map(len, found)) - len(counts)} samples were seen twice")
    wanted = key_log.batches(uninterrupted("contrastive", folder.parent, 1) / "keys", STEPS)
    require(found == wanted, "the samples differ from those of one process that nobody kills")
    return ", ".join([*launches, f"2 x {workers} workers to the end: {len(counts)} samples, once each"])


def equal_curves(method: str, folder: Path, trial: int, rng: random.Random) -> str:
    """Loss of every step on one and on two processes with the same global batch, float32."""
    still = {"model__x_noise": 0.0} if method == "ot" else {}  # noise belongs to a rank; the others draw none
    runs = [uninterrupted(method, folder.parent, ranks, **still) for ranks in (1, 2)]
    curves = [key_log.losses(run / "keys", STEPS) for run in runs]
    worst = max(abs(a - b) / max(1.0, abs(a)) for a, b in zip(*curves, strict=True))
    require(worst <= TOLERANCE, f"the losses differ by {worst:.1e}, allowed are {TOLERANCE:.0e}")
    return f"{STEPS} steps, largest difference {worst:.1e}"
