"""SIGKILL in the middle of writing a checkpoint: one that can be loaded always exists, and `--resume auto` finds it."""

import random
import time
from pathlib import Path

from benchmarks.reliability.methods import options
from benchmarks.reliability.promises import leftovers, load, loadable, require, says
from benchmarks.reliability.training import Training, start

MEGABYTES, TRIES = 120, 20
OTHER_FILE_SYSTEM = Path("/dev/shm")
CHANGES = {
    "callbacks__ballast": "benchmarks.reliability.injected_faults.Ballast",
    "callbacks__ballast__megabytes": MEGABYTES,
    "callbacks__last_checkpoint__every_n_steps": 1,  # the run does little else than write
}


def killed_in_a_write(folder: Path, trial: int, rng: random.Random) -> str:
    """One trial: every second one has its TMPDIR on another file system than the run."""
    elsewhere = trial % 2 == 1 and OTHER_FILE_SYSTEM.is_dir()
    environment = {"TMPDIR": str(OTHER_FILE_SYSTEM)} if elsewhere else {}
    run, before = folder / "run", set(OTHER_FILE_SYSTEM.glob("tmp*"))
    for _ in range(TRIES):
        share, seconds = _kill(folder, rng, environment)
        if leftovers(run):
            break
    require(bool(leftovers(run)), f"none of {TRIES} kills hit a write")
    kept = max(load(file)["global_step"] for file in loadable(run))
    with start(folder, _arguments(folder, kept + 2), environment=environment) as training:
        training.finishes()
        says(training.text(), r"^resume .*\.ckpt")
    reached = load(run / "checkpoints" / "last.ckpt")["global_step"]
    require(reached == kept + 2, f"the run ended at step {reached}; resumed from step {kept} it ends at {kept + 2}")
    require(not leftovers(run), f"{leftovers(run)} was left behind")
    require(not elsewhere or set(OTHER_FILE_SYSTEM.glob("tmp*")) <= before, "something was left in TMPDIR")
    place = f", TMPDIR {OTHER_FILE_SYSTEM}" if elsewhere else ""
    return f"killed {100 * share:.0f} % into a write of {seconds:.2f} s{place}"


def _kill(folder: Path, rng: random.Random, environment: dict[str, str]) -> tuple[float, float]:
    """Kill the run at a random share of a write; returns the share and how long a write takes."""
    share = rng.uniform(0, 1)
    with start(folder, _arguments(folder, 10_000), environment=environment) as training:
        training.wait_for(lambda: len(list(folder.glob("run/checkpoints/last*.ckpt"))) > 0, "first checkpoint")
        seconds = _write_time(training, folder / "run")
        training.wait_for(lambda: bool(leftovers(folder / "run")), "a write")
        time.sleep(share * seconds)
        training.kill()
    return share, seconds


def _write_time(training: Training, run: Path) -> float:
    """Seconds of one whole write."""
    training.wait_for(lambda: not leftovers(run), "the end of a write")
    training.wait_for(lambda: bool(leftovers(run)), "a write")
    began = time.monotonic()
    training.wait_for(lambda: not leftovers(run), "the end of a write")
    return time.monotonic() - began


def _arguments(folder: Path, steps: int) -> list[str]:
    return [*options("ot", folder, steps=steps, **CHANGES), "--resume", "auto"]
