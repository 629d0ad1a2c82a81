"""`sweep`: quality against passes on prompts that the calibration has not seen, as JSON lines, a plot and a table."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from fewstep.collaboration.analysis.predictors import auc
from fewstep.collaboration.calibration import Calibration, identity
from fewstep.collaboration.cascade import Cascade
from fewstep.collaboration.command_line.given_files import GivenFiles
from fewstep.collaboration.command_line.judges import (
    different_networks,
    load_judges,
    require_different,
)
from fewstep.collaboration.command_line.kept_lines import KeptLines, require_free_or_unfinished
from fewstep.collaboration.rehearsal import ORACLE, Judge, Rehearsal
from fewstep.collaboration.sweep.plot import draw
from fewstep.collaboration.sweep.ways import sweep
from fewstep.files.prompt_files import Prompt
from fewstep.files.weights import file_sha256

NUM_BUDGETS, FILE = 8, "sweep.jsonl"


def check_sweep(options: argparse.Namespace) -> None:
    """ValueError in one line for what cannot be meant, before anything is loaded."""
    require_different(options.oracle, options.judge)
    require_free_or_unfinished(options.out / FILE, options.overwrite)


def swept(
    options: argparse.Namespace,
    cascade: Cascade,
    calibration: Calibration,
    prompts: Sequence[Prompt],
    seeds: Sequence[str],
    asked: Mapping[str, Sequence[Any]],
    given: GivenFiles,
) -> str:
    """asked: what each judge, and "oracle", is told of each prompt. given: the pictures that come with them."""
    loaded = load_judges(options.judge, asked, options.device)
    hashes = different_networks(cascade.oracle, loaded)
    judges = {name: Judge(judge, asked[name]) for name, judge in loaded.items()}
    texts, shown = [prompt.text for prompt in prompts], given.opened(cascade.student.model.image_size)
    budgets = options.budgets or even_budgets(calibration)
    settings = {"budgets": budgets, "best of": options.best_of, "teachers": options.teachers}
    settings |= {"rollbacks": options.rollbacks, "calibration": file_sha256(options.calibration)}
    settings["prompts"] = given.digest(prompts)
    about = {**identity(cascade), "judges": hashes}
    head = {"about": about, "seed": options.seed, "keys": [prompt.key for prompt in prompts], **settings}
    rehearsal = Rehearsal(cascade, texts, seeds, asked[ORACLE], judges, **shown)
    plan = budgets, options.best_of, options.teachers, options.rollbacks
    sweep(rehearsal, calibration, *plan)  # refused before the folder is begun
    kept = KeptLines(options.out / FILE, head, options.overwrite)
    for way in sweep(rehearsal, calibration, *plan, done={row["name"] for row in kept.rows}):
        kept.add(way.row())
    known = oracle_auc(kept.rows, options.judge)
    draw(kept.rows, options.out / "sweep.png", {name: found["value"] for name, found in known.items()})
    kept.end(auc=known)
    return "\n".join([str(options.out), *table(kept.rows)])


def oracle_auc(rows: Sequence[Mapping[str, Any]], judges: Sequence[str]) -> dict[str, Any]:
    """Of its scores of first drafts for the judges of right and wrong, by name; without those that have only one."""
    values = next(row["values"] for row in rows if row["name"] == "student")
    scores, known = torch.tensor(values[ORACLE]), {}
    for name in judges:
        right = torch.tensor(values[name])
        if set(right.unique().tolist()) <= {0.0, 1.0} and 2 <= right.sum() <= len(right) - 2:
            known[name] = auc(scores, right > 0)._asdict()
    return known


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
