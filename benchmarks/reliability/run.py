"""Do to real trainings what kills others, and see whether every promise is kept.

    python benchmarks/reliability/run.py [--only NAME ...] [--trials N] [--out results/reliability.jsonl]

One row of matrix.py after the other; trials that the file holds already are not done again. Exit code 1 if a promise
was not kept. Disks that are full or read-only are small file systems, mounted in a namespace of their own (`unshare`),
which vanish with this process. The trainings are those of methods.py: tiny networks on CPUs, one after the other.
"""

import argparse
import importlib
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMESPACE = "FEWSTEP_FAULTS_NAMESPACE"  # set once the process has its own mounts, or cannot have them


def main() -> int:
    from benchmarks.reliability.matrix import MATRIX

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], help="names of rows, or how they begin")
    parser.add_argument("--trials", type=int, help="of each row; its own number if not given")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "reliability.jsonl")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="leave the trainings' folders here")
    parser.add_argument("--markdown", action="store_true", help="print the table as docs/results/reliability.md has it")
    options = parser.parse_args()
    rows = [row for row in MATRIX if not options.only or row.name.startswith(tuple(options.only))]
    if not rows:
        parser.error(f"no row begins with {' or '.join(options.only)}; there are {', '.join(r.name for r in MATRIX)}")
    work = options.keep or Path(tempfile.mkdtemp(prefix="faults_"))
    try:
        return run(rows, options, work.absolute())
    finally:
        if not options.keep:
            shutil.rmtree(work, ignore_errors=True)


def run(rows: list, options: argparse.Namespace, work: Path) -> int:
    from rich.console import Console

    from benchmarks.reliability import table

    preload()
    results = table.read(options.out)
    for row in rows:
        done = {trial["trial"] for trial in results[row.name]}
        for trial in range(row.trials if options.trials is None else options.trials):
            if trial not in done:
                result = attempt(row, trial, options.seed, work / f"{row.name}-{trial}")
                table.write(options.out, result)
                results[row.name].append(result)
                print(f"{row.name} {trial}: {'kept' if result['kept'] else 'BROKEN'}, {result['detail']}", flush=True)
    chosen = {row.name: results[row.name] for row in rows}
    print(table.markdown(chosen)) if options.markdown else Console().print(table.rich_table(chosen))
    return 0 if all(trial["kept"] for trials in chosen.values() for trial in trials) else 1


def attempt(row, trial: int, seed: int, folder: Path) -> dict:
    """One trial as a line of results: wall-clock and processor seconds, the undisturbed runs included where made."""
    from benchmarks.reliability.promises import Missed

    shutil.rmtree(folder, ignore_errors=True)
    began, before = time.monotonic(), _processor_seconds()
    try:
        detail, kept = row.trial(folder, trial, random.Random(f"{seed} {row.name} {trial}")), True
    except Missed as missed:
        detail, kept = " ".join(str(missed).split()), False
    seconds = {"seconds": round(time.monotonic() - began, 1), "processor": round(_processor_seconds() - before, 1)}
    return {"row": row.name, "trial": trial, "kept": kept, "detail": detail, **seconds}


def preload() -> None:
    """Import what a training imports, so that its forks need not. Nothing here may start a thread."""
    late = ("sklearn.mixture",)  # imported when a training begins, which is half of a small one's time
    for name in ("wandb", "train", "datamodules", "lightning_modules", "commands.train.command_line", *late):
        importlib.import_module(name)
    torch = importlib.import_module("torch")
    torch.set_num_threads(1)


def own_mounts() -> None:
    """Start again where mounting is allowed and nobody else sees it; without that, the rows of disks say so."""
    if NAMESPACE in os.environ or not shutil.which("unshare"):
        return
    command = ["unshare", "-m" if os.geteuid() == 0 else "-Urm"]
    if subprocess.run([*command, "true"], capture_output=True).returncode == 0:
        os.environ[NAMESPACE] = "1"
        os.execvp("unshare", [*command, sys.executable, *sys.argv])


def _processor_seconds() -> float:
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


if __name__ == "__main__":
    own_mounts()
    os.environ |= {"OMP_NUM_THREADS": "1", "FEWSTEP_TRUST": "benchmarks"}  # whose callbacks do the faults
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
