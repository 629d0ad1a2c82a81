"""SIGKILL a training at random moments, resume it with other workers and ranks, and compare the samples it saw.

    python benchmarks/data/kill_and_resume.py --kills 20

Every launch draws its number of processes (1 or 2) and of loader workers (0 to 2). Steps after the last checkpoint are
done again by the next launch; of each step the last line counts, as its weights do. The sequence of sample keys must be
the one that an uninterrupted stream gives: nothing lost, nothing repeated.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
BATCH, ALIVE_STEPS, CHECKPOINT_EVERY = 8, 40, 15  # steps that a launch must get on before it may be killed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="kill_and_resume_"))
    try:
        report = trial(folder, options.kills, random.Random(options.seed))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(report))


def trial(folder: Path, kills: int, rng: random.Random) -> dict:
    """Kill a run in `folder` this many times; returns what was lost and what was repeated."""
    shards = write_shards(folder / "shards")
    log = folder / "keys"
    for kill in range(kills + 1):
        topology = {"ranks": rng.choice([1, 2]), "workers": rng.choice([0, 1, 2])}
        start = newest_step(log)
        goal = start + ALIVE_STEPS
        if kill == kills:
            process = launch(folder, shards, log, goal, **topology)
            assert process.wait(timeout=400) == 0, (folder / "output").read_text()[-2000:]
        else:
            process = launch(folder, shards, log, 1_000_000, **topology)
            wait_for(lambda: newest_step(log) > goal, process, folder)  # noqa: B023
            time.sleep(rng.uniform(0, 1.0))
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        print(topology, f"steps {start} to {newest_step(log)}", flush=True)
    seen = samples_by_step(log, goal)
    expected = uninterrupted(shards, len(seen))
    found, wanted = (Counter(key for batch in batches for key in batch) for batches in (seen, expected))
    return {
        "kills": kills,
        "steps": len(seen),
        "samples_lost": (wanted - found).total(),
        "samples_repeated": (found - wanted).total(),
        "batches_that_differ": sum(a != b for a, b in zip(seen, expected, strict=True)),
    }


def write_shards(folder: Path) -> Path:
    """Three uneven training shards of 8x8 pictures, and one for validation."""
    from tests.datamodules.picture_shards import write_folder

    write_folder(folder, [90, 17, 130])
    return write_folder(folder, [5], "val")


def launch(folder: Path, shards: Path, log: Path, steps: int, ranks: int, workers: int) -> subprocess.Popen:
    """train.py fit in a process group of its own, resuming what is there."""
    options = {
        "model": "benchmarks.data.key_log.KeyLog",
        "model.log": log,
        "data": "datamodules.ImageTextDataModule",
        "data.path": shards,
        "data.image_size": 8,
        "data.batch_size": BATCH,
        "data.steps_per_epoch": 37,
        "data.num_workers": workers,
        "trainer.max_steps": steps,
        "trainer.accelerator": "cpu",
        "callbacks.last_checkpoint.every_n_steps": CHECKPOINT_EVERY,
        "wandb": "disabled",
        "test_after_fit": "false",
        "run_dir": folder / "run",
        **({"resume": "auto"} if (folder / "run").exists() else {}),
    }
    command = [sys.executable, str(ROOT / "train.py"), "fit"]
    if ranks > 1:
        command += ["-c", str(ROOT / "configs" / "trainer" / "ddp.yaml"), "--trainer.devices", str(ranks)]
    command += [f"--{name}={value}" for name, value in options.items()]
    with (folder / "output").open("w") as output:
        return subprocess.Popen(
            command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, env=environment()
        )


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def wait_for(condition, process: subprocess.Popen, folder: Path, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, (folder / "output").read_text()[-2000:]
        assert time.monotonic() < deadline, "the run does not get on"
        time.sleep(0.05)


def lines_of(log: Path) -> list[dict]:
    """Complete lines of all processes, in the order of writing within each."""
    found = []
    for file in sorted(log.parent.glob(f"{log.name}.*")):
        found += [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]
    return found


def newest_step(log: Path) -> int:
    return max((line["step"] for line in lines_of(log)), default=-1)


def samples_by_step(log: Path, steps: int) -> list[list[str]]:
    """Keys of each global batch, put together from the ranks of the launch that did the step last."""
    newest: dict[int, dict] = {}
    for line in lines_of(log):
        entry = newest.setdefault(line["step"], {})
        entry[line["rank"]] = line
    batches = []
    for step in range(steps):
        world = newest[step][0]["world"]  # rank 0 writes in every launch
        ranks = [newest[step][rank]["keys"] for rank in range(world)]
        batches.append([ranks[i % world][i // world] for i in range(BATCH)])
    return batches


def uninterrupted(shards: Path, steps: int) -> list[list[str]]:
    """What one process without workers reads when nobody stops it."""
    from datamodules import ImageTextDataModule

    data = ImageTextDataModule(str(shards), image_size=8, batch_size=BATCH, steps_per_epoch=steps, num_workers=0)
    data.setup("fit")
    return [batch["key"] for batch in data.train_dataloader()]


if __name__ == "__main__":
    main()
