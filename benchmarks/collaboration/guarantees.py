"""Whether thresholds keep what they promise: 1,000 fresh splits of the prompts of a sweep.

    python benchmarks/collaboration/guarantees.py SWEEP --judge all_right=assets/avatar_judge --teacher "teacher 6" \
        --prompts new.jsonl

Half of the prompts calibrate, the other half are drawn. A draft that is kept is a mistake where the judge finds it
wrong and the teacher's picture right. Shifted: calibrated on scenes in which nobody wears a hat, drawn of those in
which somebody does, in random order; the streaming threshold goes on from the calibrated one.

What is realised is a share of a finite half: a budget's is compared with the beta-binomial law of such shares, and a
certificate counts as broken where the binomial noise of the half does not explain what it has too much.
"""

import argparse
import math
import sys
from pathlib import Path

import torch
from scipy.stats import betabinom, binom
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.collaboration.keep_sweeps import read_sweep
from fewstep.collaboration.routing import (
    StreamingThreshold,
    budget_threshold,
    certified_threshold,
    conformal_threshold,
)
from fewstep.files.prompt_files import read_prompt_file

SHARE, MOST, CONFIDENCE, SPLITS = 0.3, 0.1, 0.9, 1000


def read_outcomes(sweep: Path, judge: str, teacher: str) -> tuple[Tensor, Tensor, list[str]]:
    """(the oracle's score of each draft, whether keeping it is a mistake, keys)."""
    head, rows = read_sweep(sweep)
    values = {row["name"]: row["values"] for row in rows}
    draft, best = (torch.tensor(values[name][judge]) for name in ("student", teacher))
    return torch.tensor(values["student"]["oracle"]).double(), best > draft, head["keys"]


def realised(scores: Tensor, bad: Tensor, threshold: float) -> tuple[float, float]:
    """(share that is deferred, share that is kept and bad)."""
    deferred = scores < threshold
    return deferred.double().mean().item(), (bad & ~deferred).double().mean().item()


def quantile(values: list[float], share: float) -> float:
    return torch.quantile(torch.tensor(values, dtype=torch.float64), share).item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path)
    parser.add_argument("--judge", required=True)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--prompts", type=Path, required=True)
    options = parser.parse_args()
    scores, bad, keys = read_outcomes(options.sweep, options.judge, options.teacher)
    num, generator = len(scores), torch.Generator().manual_seed(0)
    budgets, certified, conformal, needed = [], [], [], []
    for _ in range(SPLITS):
        order = torch.randperm(num, generator=generator)
        known, new = order[: num // 2], order[num // 2 :]
        budgets.append(realised(scores[new], bad[new], budget_threshold(scores[known], SHARE))[0])
        threshold = certified_threshold(scores[known], bad[known], MOST, CONFIDENCE)
        certified.append(realised(scores[new], bad[new], threshold)[1])
        needed.append(realised(scores[new], bad[new], threshold)[0])
        threshold = conformal_threshold(scores[known], bad[known].double(), MOST)
        conformal.append(realised(scores[new], bad[new], threshold)[1])
    mean = [sum(values) / SPLITS for values in (budgets, certified, conformal)]
    rank, others = math.floor(SHARE * (num // 2 + 1) + 1e-9), num - num // 2
    allowed = betabinom.ppf(0.95, others, rank, num // 2 + 1 - rank) / others
    broken = sum(binom.sf(round(value * others) - 1, others, MOST) < 0.025 for value in certified) / SPLITS
    print(f"{num} prompts, {SPLITS} splits; keeping every draft is a mistake for {bad.double().mean():.3f} of them\n")
    print("| rule | promised | realised |")
    print("|---|---|---|")
    print(f"| budget | at most {SHARE} deferred on average | {mean[0]:.4f} |")
    told = f"95 % of splits within {quantile(budgets, 0.95):.3f}"
    print(f"| budget | at most {allowed:.3f} of such a half in 95 % of splits | {told} |")
    told = f"{broken:.3f} of splits have more than noise explains; mean {mean[1]:.4f}"
    told += f", deferring {sum(needed) / SPLITS:.3f}"
    print(f"| certified | mistakes at most {MOST} in {CONFIDENCE:.0%} of calibrations | {told} |")
    print(f"| conformal | mistakes at most {MOST} on average | {mean[2]:.4f} |")
    hats = {
        prompt.key: any(p["hat"] != "none" for p in prompt.attributes) for prompt in read_prompt_file(options.prompts)
    }
    shifted = torch.tensor([hats[key] for key in keys])
    known, new = (~shifted).nonzero()[:, 0], shifted.nonzero()[:, 0]
    threshold = budget_threshold(scores[known], SHARE)
    fixed = realised(scores[new], bad[new], threshold)[0]
    rate = 0.05 * (scores.max() - scores.min()).item()
    moving = []
    for _ in range(100):
        stream = StreamingThreshold(threshold, SHARE, rate)
        moving.append(stream.defer(scores[new[torch.randperm(len(new), generator=generator)]]).double().mean().item())
    told = f"{len(known)} to {len(new)} prompts"
    print(f"| budget, shifted ({told}) | {SHARE} | {fixed:.3f} |")
    told = f"{sum(moving) / 100:.3f}, 95 % of orders within {quantile(moving, 0.95):.3f}"
    print(f"| streaming, shifted | tends to {SHARE} | {told} |")


if __name__ == "__main__":
    main()
