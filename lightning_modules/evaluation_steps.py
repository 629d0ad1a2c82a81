"""What the steps of several modules share: fields of batches, means over the rows that count, noise of a sample."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from fewstep.rng import PerSampleRng, run_seed


def log_mean(module: LightningModule, key: str, values: Tensor, weight: Tensor, **options: Any) -> None:
    """Log the mean of values [B] over the rows that count, weight [B], and over all batches and processes.

    options: of `LightningModule.log`, such as prog_bar.
    """
    rows = float(weight.sum())  # a float: Lightning averages whole numbers over ranks by integer division
    module.log(key, (values * weight).sum() / max(rows, 1.0), batch_size=rows, sync_dist=True, **options)


def pictures_of(batch: dict[str, Any], field: str) -> Tensor:
    """Pictures [B, 3, H, W] of a batch; ValueError in one line where it has none of this name."""
    if field not in batch:
        raise ValueError(f"the batch has no {field!r}: list it in --data.images")
    return batch[field]


def sample_rng(keys: Sequence[str | int], device: torch.device) -> PerSampleRng:
    """Random numbers of samples by their keys and the seed of `seed_everything`: no batch and no rank changes them."""
    return PerSampleRng(run_seed(), keys, device)
