"""Batches of NaN: a few are skipped, many stop the run; the state on disk is finite either way."""

import json
import random
from pathlib import Path

from benchmarks.reliability.methods import options
from benchmarks.reliability.promises import finite, load, no_traceback, require, says
from benchmarks.reliability.training import start

FAULT = {"callbacks__bad_batch": "benchmarks.reliability.injected_faults.NonFiniteBatch"}


def nan_once(folder: Path, trial: int, rng: random.Random, ranks: int = 1, rank: int | None = None) -> str:
    """One batch; on two ranks the one of the second rank only, and both leave it out."""
    step = rng.randrange(8, 25)
    where = {"callbacks__bad_batch__steps": [step], "callbacks__bad_batch__rank": "null" if rank is None else rank}
    with start(folder, options("ot", folder, **FAULT, **where), ranks) as training:
        training.finishes()
    no_traceback(training.text())
    records = _records(folder / "run")
    require(bool(records), "logs/bad_batches.jsonl does not tell of the batch")
    named = sorted({record["step"] for record in records})
    require(named == [step + 1], f"the records name the steps {named}, counted from 1 it was step {step + 1}")
    for file in (folder / "run" / "checkpoints").glob("*.ckpt"):
        finite(load(file), file.name)
    return f"step {step} skipped, the run finished, {len(records)} record{'s' * (len(records) > 1)} of it"


def nan_for_ever(folder: Path, trial: int, rng: random.Random) -> str:
    """From a step on: the run stops and says why."""
    step = rng.randrange(8, 25)
    steps = list(range(step, 2000))
    arguments = options("ot", folder, steps=1000, **FAULT, callbacks__bad_batch__steps=steps)
    with start(folder, arguments) as training:
        training.begins(step)
        training.happened()
        codes = training.codes()
    require(codes == [1], f"exit codes {codes}, promised 1: {training.tail()}")
    no_traceback(training.text())
    says(training.text(), r"not finite|non-?finite|NaN")
    for file in (folder / "run" / "checkpoints").glob("*.ckpt"):
        finite(load(file), file.name)
    return f"exit 1 {training.since_fault():.1f} s after step {step}"


def _records(run: Path) -> list[dict]:
    files = sorted(run.glob("logs/bad_batches*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]
