"""What a step costs more than in a bare loop of the same step, both in one process and in turns."""

import json
import random
from argparse import Namespace
from pathlib import Path

from benchmarks.reliability.processes import fork
from benchmarks.reliability.promises import require

SHARE_OF_SHORT = 0.4  # of a step of 2 to 6 ms, by the machine's pace, which the trainer's own work follows
LONG_TO_SHORT = 2.0  # what a long step may cost more, in what a short one does: the same but for noise
SHORT = Namespace(objective="inverse_ot", batch=[128], steps=50, segments=20)
LONG = Namespace(objective="inverse_ot", batch=[1024], steps=10, segments=30)
LONG_STEP = 75  # ms: what LONG's step shall last, by its batch
PARTS = [
    "step_seed",
    "throughput",
    "numeric_guard",
    "loss_spikes",
    "data_identity",
    "last_checkpoint",
    "preemption",
    "skipped_samples",
]


def fixed_cost(folder: Path, trial: int, rng: random.Random) -> str:
    """Of a short step, in which little else is to be seen; with Lightning's own loop."""
    cost = _measure(folder, SHORT)
    share = cost["extra"] / cost["bare"]
    require(share <= SHARE_OF_SHORT, f"{share:.2f} of a step, allowed are {SHARE_OF_SHORT}: {cost['line']}")
    return f"{share:.2f}: {cost['line']}"


def of_a_long_step(folder: Path, trial: int, rng: random.Random) -> str:
    """Of a step of 75 ms, with Lightning's own loop; also said is what PARTS add to the same trainer without them.

    A first short measurement finds the batch that takes so long on this machine.
    """
    sizing = Namespace(**vars(LONG) | {"segments": 3})
    short = _measure(folder / "short", SHORT)["extra"]
    batch = round(sizing.batch[0] * LONG_STEP / _measure(folder / "sizing", sizing)["bare"])
    run = Namespace(**vars(LONG) | {"batch": [batch]})
    whole, without = _measure(folder / "whole", run), _measure(folder / "without", run, PARTS)
    parts = whole["extra"] - without["extra"]
    times, share = whole["extra"] / short, whole["extra"] / whole["bare"]
    line = f"{times:.2f} times, {100 * share:.1f} %: {whole['line']}; of it {parts:.2f} ms without Lightning's loop"
    require(times <= LONG_TO_SHORT, f"allowed are {LONG_TO_SHORT} times: {line}")
    return line


def _measure(folder: Path, run: Namespace, without: list[str] | None = None) -> dict:
    """Medians over the segments, in milliseconds of processor time: this process is not alone on the machine."""
    folder.mkdir(parents=True, exist_ok=True)
    result = folder / "cost.json"
    process = fork(lambda: _write(result, run, without or []), folder / "output")
    code = process.wait(3600)
    require(code == 0, f"the measurement failed: {process.tail()}")
    return json.loads(result.read_text())


def _write(result: Path, run: Namespace, without: list[str]) -> int:
    from benchmarks.ot_conditional.trainer_cost import keep_memory, measure

    keep_memory()
    times = measure(run, run.batch[0], without)
    bare, trainer = (times[loop][:, 1] for loop in ("bare", "trainer"))
    extra = trainer - bare
    low, middle, high = (extra.quantile(share).item() for share in (0.25, 0.5, 0.75))
    line = f"{middle:.2f} ms ({low:.2f} to {high:.2f}) on a step of {bare.median():.2f} ms, {len(extra)} segments"
    result.write_text(json.dumps({"extra": middle, "bare": bare.median().item(), "line": line}))
    return 0
