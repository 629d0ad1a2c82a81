"""Markdown tables from the lines that run.py wrote: mean ± standard deviation over seeds (n - 1 in the denominator).

python benchmarks/ot_conditional/table.py docs/results/ot_conditional.jsonl
"""

import argparse
import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.ot_conditional.methods import METHODS

METRICS = {
    "nll": "NLL",
    "conditional_w2": "W2",
    "conditional_energy": "energy",
    "marginal_sw2": "marginal SW2",
    "mmd": "MMD²",
}
PAIRS = (32, 128, 512)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    runs = [json.loads(line) for file in parser.parse_args().files for line in file.read_text().splitlines()]
    groups: dict[tuple[str, str, int], list[dict]] = defaultdict(list)
    for run in runs:
        data, method, num_pairs, _ = run["run"]
        groups[data, method, num_pairs].append(run)
    for data in dict.fromkeys(key[0] for key in groups):
        print(f"\n### {data}\n")
        likelihood(data, groups)
        distances(data, groups)


def likelihood(data: str, groups: dict) -> None:
    """Test NLL of the selected and of the last step, for each number of pairs; the best mean is bold."""
    columns = [(p, step) for p in PAIRS for step in ("selected", "final")]
    cells = {(m, *c): values(groups, data, m, *c, "nll") for m in METHODS for c in columns}
    best = {c: min((statistics.mean(cells[m, *c]) for m in METHODS if cells[m, *c]), default=None) for c in columns}
    print("| test NLL (nats) | " + " | ".join(f"P = {p}, {step}" for p, step in columns) + " | seeds |")
    print("|---|" + "---|" * (len(columns) + 1))
    for method in METHODS:
        row = [cells[method, *c] for c in columns]
        if any(row):
            shown = [show(v, bool(v) and statistics.mean(v) == best[c]) for v, c in zip(row, columns, strict=True)]
            counts = sorted({len(numbers) for numbers in row if numbers})
            print(f"| {method} | " + " | ".join(shown) + f" | {'-'.join(map(str, [counts[0], *counts[1:][-1:]]))} |")


def distances(data: str, groups: dict) -> None:
    """The other metrics at P = 128, of the selected step."""
    others = [name for name in METRICS if name != "nll"]
    print("\n| P = 128, selected | " + " | ".join(METRICS[n] for n in others) + " |")
    print("|---|" + "---|" * len(others))
    for method in METHODS:
        row = [values(groups, data, method, 128, "selected", name) for name in others]
        if any(row):
            print(f"| {method} | " + " | ".join(show(v, digits=3) for v in row) + " |")


def values(groups: dict, data: str, method: str, num_pairs: int, step: str, metric: str) -> list[float]:
    return [run[step][metric] for run in groups[data, method, num_pairs]]


def show(numbers: list[float], bold: bool = False, digits: int = 2) -> str:
    if not numbers:
        return ""
    mean = statistics.mean(numbers)
    if len(numbers) == 1:
        return f"{mean:.{digits}f}"  # one seed has no spread
    spread = statistics.stdev(numbers)
    text = f"{mean:.{digits}f} ± {spread:.{digits}f}" if abs(mean) < 1000 else f"{mean:.2g} ± {spread:.1g}"
    return f"**{text}**" if bold else text


if __name__ == "__main__":
    main()
