"""A folder that `python -m fewstep.collaboration draw` has filled, in the place of a checkpoint.

One folder for each budget makes a table of budgets, and the report's fronts of quality against what it takes.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import binom
from torch import Tensor

from callbacks.metrics.measurements import Measured, publish
from commands.evaluate.prompts import PromptData
from fewstep.collaboration.command_line.drawn_files import ABOUT, draft_files, read_drawn
from fewstep.files.pictures import read_picture
from fewstep.metrics.intervals import bootstrap_mean

PASSES, HIGH, REPAIRED, LATENCY = "test/passes", "test/passes_p95", "test/repaired", "test/seconds_p95"


def is_drawn(path: Path) -> bool:
    return (path / ABOUT).is_file()


class DrawnData(PromptData):
    """Test batches of what is told of the pictures, with `attributes` where these were asked for."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], batch_size: int) -> None:
        super(PromptData, self).__init__()
        self.rows, self.batch_size = rows, batch_size
        self.prompts = [(row["key"], row["prompt"]) for row in rows]

    def _batch(self, rows: range, size: int) -> dict[str, Any]:
        asked = [self.rows[row % size]["attributes"] for row in rows]
        return super()._batch(rows, size) | ({"attributes": asked} if all(asked) else {})


class DrawnModule(LightningModule):
    """Shows the pictures of a folder: `image` [B, 3, H, W] in [-1, 1], `nfe` (network passes) and `seconds` [B].

    Where the folder has them also `draft`, the student's picture of each, and the oracle's `draft_score` [B] of it.
    folder: of `draw`. ValueError in one line for one that is not drawn to its end, or damaged.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder, (about, rows) = folder, read_drawn(folder)
        self.rows = {row["key"]: row for row in rows}
        with Image.open(folder / f"{rows[0]['key']}.png", formats=["PNG"]) as first:
            self.image_size = first.height, first.width
        passes = [row["passes"] for row in rows]
        self.drafts = draft_files(folder, rows)
        self.settings = {"nfe_p95": float(np.quantile(passes, 0.95, method="higher"))}
        seconds = [row["seconds"] for row in rows]
        self.settings["seconds_p95"] = float(np.quantile(seconds, 0.95, method="higher"))
        if len(seconds) > 1:
            self.settings["seconds_p95_interval"] = list(bootstrap_quantile(np.array(seconds), 0.95))
        self.settings |= {name: about[name] for name in ("policy", "seed") if name in about}
        self.kept = None  # nothing is made here that could be kept

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        rows = [self.rows[key] for key in batch["key"]]
        shown = {"image": [self.folder / f"{row['key']}.png" for row in rows]}
        columns = {"nfe": "passes", "seconds": "seconds"}
        if self.drafts is not None:
            shown["draft"] = [self.drafts[row["key"]] for row in rows]
            columns["draft_score"] = "draft_score"
        outputs = {k: torch.cat([read_picture(file, self.image_size) for file in files]) for k, files in shown.items()}
        outputs |= {name: torch.tensor([row[column] for row in rows]) for name, column in columns.items()}
        return {name: value.to(self.device) for name, value in outputs.items()}


class PassesCallback(Callback):
    """Logs `test/passes`, mean and 95 % quantile, that of the seconds of a picture, and `test/repaired`, the share that
    the teacher was asked to repair.

    A quantile is a value that is there, the first that 95 % stay within.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.passes = torch.tensor([row["passes"] for row in rows], dtype=torch.float64)
        self.seconds = torch.tensor([row["seconds"] for row in rows], dtype=torch.float64)
        self.repaired = torch.tensor([row["route"] != "keep" for row in rows], dtype=torch.float64)
        self.measured: Measured = {}

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        high, late = (column.quantile(0.95, interpolation="higher") for column in (self.passes, self.seconds))
        values = {PASSES: self.passes.mean(), HIGH: high, LATENCY: late, REPAIRED: self.repaired.mean()}
        protocol = {"metric": "passes of the teacher's network", "num_generated": len(self.passes)}
        self.measured = publish(trainer, pl_module, {k: v.item() for k, v in values.items()}, protocol)

    def intervals(self, num_draws: int = 1000, seed: int = 0) -> dict[str, tuple[float, float]]:
        if len(self.passes) < 2:
            return {}
        means = {PASSES: self.passes, REPAIRED: self.repaired}
        found = {name: bootstrap_mean(column, num_draws, seed=seed) for name, column in means.items()}
        late = {HIGH: self.passes, LATENCY: self.seconds}
        return found | {name: bootstrap_quantile(column.numpy(), 0.95) for name, column in late.items()}


def bootstrap_quantile(values: NDArray[np.float64], share: float, level: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap interval (low, high) for the quantile of values [n], of infinitely many draws.

    The quantile of a draw is its value of one rank, which is at most the k-th of all values as often as a binomial
    variable (n, k / n) reaches that rank. Source: Efron 1979, where the quantile is the median.
    """
    num, ordered = len(values), np.sort(values)
    rank = np.quantile(np.arange(1, num + 1), share, method="higher")
    below = binom.sf(rank - 1, num, np.arange(1, num + 1) / num)
    low, high = ordered[np.searchsorted(below, [(1 - level) / 2, (1 + level) / 2])]
    return float(low), float(high)


def described(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What tells the prompts of one folder from those of another, for metrics.json."""
    told = "\n".join(f"{row['key']} {row['prompt']}" for row in rows)
    return {"prompts": hashlib.sha256(told.encode()).hexdigest()[:16], "num_samples": len(rows)}
