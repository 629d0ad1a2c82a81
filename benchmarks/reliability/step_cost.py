"""What a step costs more than in a bare loop of the same step, both in one process and in turns."""

import json
import random
from argparse import Namespace
from pathlib import Path

from benchmarks.reliability.processes import fork
from benchmarks.reliability.promises import require

MILLISECONDS, SHARE = 1.5, 0.02
SHORT = Namespace(objective="inverse_ot", batch=[128], steps=50, segments=20)
LONG = Namespace(objective="marginal", batch=[1024], steps=10, segments=12)  # about 75 ms; see trainer_cost.py


def fixed_cost(folder: Path, trial: int, rng: random.Random) -> str:
    """Of a step of 2 ms, in which little else is to be seen."""
    cost = _measure(folder, SHORT)
    require(cost["extra"] <= MILLISECONDS, f"{cost['extra']:.2f} ms a step, allowed are {MILLISECONDS}: {cost['line']}")
    return cost["line"]


def share_of_a_long_step(folder: Path, trial: int, rng: random.Random) -> str:
    cost = _measure(folder, LONG)
    share = cost["extra"] / cost["bare"]
    require(share <= SHARE, f"{100 * share:.1f} % of a step, allowed are {100 * SHARE:.0f} %: {cost['line']}")
    return cost["line"]


def _measure(folder: Path, run: Namespace) -> dict:
    """Medians over the segments, in milliseconds of processor time: this process is not alone on the machine."""
    folder.mkdir(parents=True, exist_ok=True)
    result = folder / "cost.json"
    process = fork(lambda: _write(result, run), folder / "output")
    code = process.wait(3600)
    require(code == 0, f"the measurement failed: {process.tail()}")
    return json.loads(result.read_text())


def _write(result: Path, run: Namespace) -> int:
    from benchmarks.ot_conditional.trainer_cost import measure

    times = measure(run, run.batch[0])
    bare, trainer = (times[loop][:, 1] / run.steps for loop in ("bare", "trainer"))
    extra = trainer - bare
    low, middle, high = (extra.quantile(share).item() for share in (0.25, 0.5, 0.75))
    line = f"{middle:.2f} ms ({low:.2f} to {high:.2f}) on a step of {bare.median():.2f} ms, {len(extra)} segments"
    result.write_text(json.dumps({"extra": middle, "bare": bare.median().item(), "line": line}))
    return 0
