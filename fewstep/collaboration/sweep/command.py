"""`sweep`: quality against passes on prompts that the calibration has not seen, as JSON lines, a plot and a table."""

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from fewstep.collaboration.analysis.predictors import auc
from fewstep.collaboration.calibration import Calibration, identity
from fewstep.collaboration.cascade import Cascade
from fewstep.collaboration.command_line.judges import (
    different_networks,
    load_judges,
    require_different,
    require_free_folder,
)
from fewstep.collaboration.policy import Policy
from fewstep.collaboration.rehearsal import ORACLE, Judge, Rehearsal
from fewstep.collaboration.sweep.plot import draw
from fewstep.collaboration.sweep.ways import sweep
from fewstep.files.durable import replace_file
from fewstep.files.prompt_files import Prompt

NUM_BUDGETS = 8


def check_sweep(options: argparse.Namespace) -> None:
    """ValueError in one line for what cannot be meant, before anything is loaded."""
    require_different(options.oracle, options.judge)
    require_free_folder(options.out, options.overwrite)


def swept(
    options: argparse.Namespace,
    cascade: Cascade,
    calibration: Calibration,
    prompts: Sequence[Prompt],
    seeds: Sequence[str],
    asked: Mapping[str, Sequence[Any]],
) -> str:
    """asked: what each judge, and "oracle", is told of each prompt."""
    loaded = load_judges(options.judge, asked, options.device)
    hashes = different_networks(cascade.oracle, loaded)
    judges = {name: Judge(judge, asked[name]) for name, judge in loaded.items()}
    rehearsal = Rehearsal(cascade, [prompt.text for prompt in prompts], seeds, asked[ORACLE], judges)
    budgets = options.budgets or even_budgets(calibration)
    ways = sweep(rehearsal, calibration, budgets, options.best_of, options.teachers, options.rollbacks)
    rows = [way.row() for way in ways]
    first = rehearsal.play(Policy())
    known = {}
    for name in options.judge:
        right = first.scores[name]
        if set(right.unique().tolist()) <= {0.0, 1.0} and 2 <= right.sum() <= len(right) - 2:
            known[name] = auc(first.draft_scores, right > 0)._asdict()
    options.out.mkdir(parents=True, exist_ok=True)
    about = {**identity(cascade), "judges": hashes}
    head = {"about": about, "auc": known, "seed": options.seed, "keys": [prompt.key for prompt in prompts]}
    lines = [head, *rows]
    replace_file(options.out / "sweep.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())
    draw(rows, options.out / "sweep.png", {name: found["value"] for name, found in known.items()})
    return "\n".join([str(options.out), *table(rows)])


def even_budgets(calibration: Calibration) -> list[float]:
    """From the drafts alone to the repair of every draft."""
    least = min(strategy.draft_passes for strategy in calibration.strategies)
    most = max(strategy.draft_passes + strategy.repair_passes for strategy in calibration.strategies)
    return torch.linspace(least, most, NUM_BUDGETS, dtype=torch.float64).tolist()


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of equal width, by passes."""
    judges = list(rows[0]["scores"])
    head = ["", "passes", "95 % within", "repaired", *judges]
    lines = [head]
    for row in sorted(rows, key=lambda row: row["passes"]):
        line = [row["name"], f"{row['passes']:.2f}", _quantile(row["passes_p95"]), f"{row['repaired']:.0%}"]
        lines.append(line + [_interval(row["scores"][judge]) for judge in judges])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def _quantile(passes: float | None) -> str:
    return "-" if passes is None else f"{passes:.2f}"


def _interval(told: Sequence[float]) -> str:
    mean, low, high = told
    return f"{mean:.4f} [{low:.4f}, {high:.4f}]"
