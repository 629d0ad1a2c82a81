"""SIGKILL at a random step, resume: final weights and samples are those of the run that nobody kills."""

import random
import time
from pathlib import Path

from benchmarks.reliability import key_log
from benchmarks.reliability.key_log import newest_step
from benchmarks.reliability.methods import (
    CONSTANT,
    PAUSE,
    READS_IMAGES,
    STEPS,
    VALIDATE_EVERY,
    last_step,
    options,
)
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


MOMENTS = ("after a validation", "before the first", "at a random step", "after the last step", "with more steps")


def resumed(method: str, folder: Path, trial: int, rng: random.Random) -> str:
    """One shipped config, killed at the moment that the trial's number chooses, and resumed."""
    moment, steps = MOMENTS[trial % len(MOMENTS)], last_step(method)
    changes: dict[str, object] = {}
    if moment == "with more steps" and method in CONSTANT:  # else the learning rates differ by nature
        changes = {CONSTANT[method].replace(".", "__"): "constant"}
    whole = uninterrupted(method, folder.parent, 1, **changes)
    if moment == "with more steps":
        length = rng.randrange(2, steps)
        with start(folder, options(method, folder, steps=length, **changes)) as training:
            training.finishes()
        seen = f"ended by max_steps={length}"
    elif moment == "after the last step":
        with start(folder, options(method, folder)) as training:
            training.finishes()
        seen = "ended"
    else:
        step = {"after a validation": VALIDATE_EVERY, "before the first": 3}.get(moment, rng.randrange(1, steps - 2))
        hold = steps - 2 if moment == "at a random step" else step
        with start(folder, options(method, folder, hold=hold)) as training:
            training.begins(step)
            time.sleep(rng.uniform(0, 4 * PAUSE))
            training.kill()
        seen = f"killed in step {newest_step(folder / 'keys')}"
    with start(folder, [*options(method, folder, **changes), "--resume", "auto"]) as training:
        training.finishes()
    equals(folder, whole, steps)
    return f"{moment}: {seen}, resumed to step {steps}"


WINDOWS = [(gathered, ranks) for gathered in (3, 1, 2, 5) for ranks in (2, 1)]


def accumulating(folder: Path, trial: int, rng: random.Random) -> str:
    """Gradients of several batches make a step; validations fall due between them, clipping is on."""
    gathered, ranks = WINDOWS[trial % len(WINDOWS)]
    steps, shared = 12, {"trainer__accumulate_grad_batches": gathered, "trainer__val_check_interval": 4}
    shared |= {"trainer__gradient_clip_val": 0.5, "trainer__max_steps": steps}
    shared |= {"callbacks__early_stopping__init_args__patience": 100}
    shared["callbacks__last_checkpoint__every_n_steps"] = 100  # only validations write
    whole = uninterrupted("weather", folder.parent, ranks, **shared)
    with start(folder, options("weather", folder, hold=steps - 2, **shared), ranks) as training:
        training.begins(rng.randrange(3, steps - 2))
        time.sleep(rng.uniform(0, 4 * PAUSE))
        training.kill()
    killed_at = newest_step(folder / "keys")
    with start(folder, [*options("weather", folder, **shared), "--resume", "auto"], ranks) as training:
        training.finishes()
    equals(folder, whole, steps)
    return f"{gathered} batches a step, {ranks} rank{'s' * (ranks > 1)}, killed in step {killed_at}"


def uninterrupted(method: str, folder: Path, ranks: int, workers: int = 0, **changes: object) -> Path:
    """Folder of the same run that nobody kills; made once for each method and number of ranks."""
    whole = folder / "-".join(["whole", method, str(ranks), *map(str, changes.values())]).replace("/", "")
    if not (whole / "done").exists():
        with start(whole, options(method, whole, workers=workers, **changes), ranks) as training:
            training.finishes()
        (whole / "done").touch()
    return whole


def equals(folder: Path, whole: Path, steps: int = STEPS) -> None:
    """Missed unless final state, samples and losses are those of the other run, bit for bit."""
    found, wanted = (key_log.batches(run / "keys", steps) for run in (folder, whole))
    differ = [step for step, (a, b) in enumerate(zip(found, wanted, strict=True)) if a != b]
    require(not differ, f"steps {differ[:5]} saw other samples than the uninterrupted run")
    curves = [key_log.losses(run / "keys", steps) for run in (folder, whole)]
    require(curves[0] == curves[1], "the losses differ from the uninterrupted run's")
    same_state(*(load(run / "run" / "checkpoints" / "last.ckpt") for run in (folder, whole)))
