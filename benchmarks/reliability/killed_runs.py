"""SIGKILL at a random step, resume: final weights and samples are those of the run that nobody kills."""

import random
import time
from pathlib import Path

from benchmarks.reliability import key_log
from benchmarks.reliability.key_log import newest_step
from benchmarks.reliability.methods import PAUSE, READS_IMAGES, STEPS, options
from benchmarks.reliability.promises import load, require, same_state
from benchmarks.reliability.training import start


def killed_once(method: str, folder: Path, trial: int, rng: random.Random) -> str:
    """One trial; its number chooses ranks and loader workers. Returns what was done."""
    workers = (0, 2)[trial // 2 % 2] if method in READS_IMAGES else 0
    ranks = (1, 2)[trial % 2]
    whole = uninterrupted(method, folder.parent, ranks)
    killed_at = run_until_killed(method, folder, rng.randrange(1, STEPS - 2), rng, ranks, workers)
    with start(folder, [*options(method, folder, workers=workers), "--resume", "auto"], ranks) as training:
        training.finishes()
    equals(folder, whole)
    return f"{ranks} rank{'s' * (ranks > 1)}, {workers} workers, killed in step {killed_at}"


def run_until_killed(
    method: str, folder: Path, step: int, rng: random.Random, ranks: int, workers: int, resume: bool = False
) -> int:
    """Start a run and kill all of it at a random moment from `step` on; returns the newest step it had begun."""
    (folder / "keys.go").unlink(missing_ok=True)
    arguments = options(method, folder, hold=STEPS - 2, workers=workers)
    with start(folder, [*arguments, *(["--resume", "auto"] if resume else [])], ranks) as training:
        training.begins(step)
        time.sleep(rng.uniform(0, 4 * PAUSE))
        training.kill()
    return newest_step(folder / "keys")


def uninterrupted(method: str, folder: Path, ranks: int, workers: int = 0, **changes: object) -> Path:
    """Folder of the same run that nobody kills; made once for each method and number of ranks."""
    whole = folder / "-".join(["whole", method, str(ranks), *map(str, changes.values())]).replace("/", "")
    if not (whole / "done").exists():
        with start(whole, options(method, whole, workers=workers, **changes), ranks) as training:
            training.finishes()
        (whole / "done").touch()
    return whole


def equals(folder: Path, whole: Path) -> None:
    """Missed unless final state, samples and losses are those of the other run, bit for bit."""
    found, wanted = (key_log.batches(run / "keys", STEPS) for run in (folder, whole))
    differ = [step for step, (a, b) in enumerate(zip(found, wanted, strict=True)) if a != b]
    require(not differ, f"steps {differ[:5]} saw other samples than the uninterrupted run")
    curves = [key_log.losses(run / "keys", STEPS) for run in (folder, whole)]
    require(curves[0] == curves[1], "the losses differ from the uninterrupted run's")
    same_state(*(load(run / "run" / "checkpoints" / "last.ckpt") for run in (folder, whole)))
