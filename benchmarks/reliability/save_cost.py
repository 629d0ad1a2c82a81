"""What a checkpoint that survives a power cut costs more than torch.save.

    python benchmarks/reliability/save_cost.py [--megabytes 400] [--repeats 12] [--folder .]

Three ways to put a new file in the place of an old one, in turns: torch.save; torch.save and fsync; AtomicCheckpointIO,
which also reads the file back and compares its checksums while the disk is at work. Medians of the ratios within a turn
and their quartiles. Memory: how much the peak of this process grew in the first save, which is ours.
"""

import argparse
import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from callbacks import AtomicCheckpointIO


def plain(state: dict[str, Any], path: Path, synced: bool = False) -> None:
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        torch.save(state, file)
        if synced:
            file.flush()
            os.fsync(file.fileno())
    partial.replace(path)


def seconds(save: Any, state: dict[str, Any], path: Path) -> float:
    os.sync()  # what the other ways have left to the disk
    began = time.perf_counter()
    save(state, path)
    return time.perf_counter() - began


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--megabytes", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--folder", type=Path, default=Path(), help="on the disk in question")
    options = parser.parse_args()
    state = {"state_dict": {f"layer{n}": torch.randn(250_000) for n in range(options.megabytes)}, "global_step": 0}
    ways = {
        "AtomicCheckpointIO": AtomicCheckpointIO().save_checkpoint,
        "torch.save": plain,
        "torch.save, fsync": lambda state, path: plain(state, path, synced=True),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        before = peak_mb()
        for turn in range(-1, options.repeats):
            for name, save in ways.items():
                state["global_step"] += 1
                spent = seconds(save, state, Path(folder, f"{name}.ckpt"))
                if turn >= 0:
                    times[name].append(spent)
                elif name == "AtomicCheckpointIO":
                    grown = peak_mb() - before
    print(f"{options.megabytes} MB, {options.repeats} turns; memory in the save: {grown:.0f} MB more\n")
    for other in list(ways)[1:]:
        ratios = [ours / theirs for ours, theirs in zip(times["AtomicCheckpointIO"], times[other], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(f"{middle:.2f} times {other} ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
