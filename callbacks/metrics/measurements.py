"""Numbers and how they were taken: to the loggers, to a dict for the evaluation and to a file of the run."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor

Measured = dict[str, dict[str, Any]]  # log key -> {"value": ..., and what it depends on}


@runtime_checkable
class Measures(Protocol):
    """A callback whose numbers an evaluation reports with how they were taken."""

    measured: Measured


@runtime_checkable
class KeepsRows(Protocol):
    """A callback that keeps the values behind its means, for tables of samples."""

    rows: dict[str, Tensor]  # log key -> values [N], ordered by key


@runtime_checkable
class KeepsInfluence(Protocol):
    """A callback that keeps what each sample does to its distances, where it takes their intervals."""

    influence: dict[str, Tensor]  # log key -> influences [N], in the order of the samples


@runtime_checkable
class GivesIntervals(Protocol):
    """A callback that takes its intervals when it is asked, after a test."""

    def intervals(self, num_draws: int, seed: int) -> dict[str, tuple[float, float]]:
        """95 % intervals by log key."""


def publish(
    trainer: Trainer,
    module: LightningModule,
    values: Mapping[str, float],
    protocol: Mapping[str, Any],
    intervals: Mapping[str, tuple[float, float]] = {},
) -> Measured:
    """Log values by their full key and append them with their protocol to RUN/logs/measurements.jsonl.

    Every process must call it, with the same values. Returns log key -> {"value": float, **protocol}, and where there
    is one, "interval": [low, high].
    """
    measured = {key: {"value": float(value), **protocol} for key, value in values.items()}
    for key, ends in intervals.items():
        measured[key]["interval"] = [float(end) for end in ends]
    # Every process measured the same images, so the mean over processes is the value itself.
    logged = {key: torch.tensor(float(value), device=module.device) for key, value in values.items()}
    module.log_dict(logged, sync_dist=True)
    if not trainer.fast_dev_run:
        _append(trainer, measured)
    return measured


@rank_zero_only
def _append(trainer: Trainer, measured: Measured) -> None:
    path = Path(trainer.default_root_dir) / "logs" / "measurements.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        for key, entry in measured.items():
            value = entry["value"] if math.isfinite(entry["value"]) else None
            line = {"key": key, "step": trainer.global_step, "epoch": trainer.current_epoch} | entry | {"value": value}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def sum_over_processes(trainer: Trainer, *tensors: Tensor) -> tuple[Tensor, ...]:
    """The sums over all processes, on every one; without a change to the arguments."""
    if trainer.world_size == 1:
        return tensors
    device = trainer.strategy.root_device
    summed = tuple(tensor.to(device, copy=True) for tensor in tensors)
    for tensor in summed:
        torch.distributed.all_reduce(tensor)
    return summed
