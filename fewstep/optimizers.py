"""AdamW and the course of its learning rate, as one group of settings."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from fewstep.choices import require_choice
from fewstep.optimizer_options import check_adamw


@dataclass(frozen=True)
class AdamW:
    """AdamW (Loshchilov and Hutter 2019) with a linear rise of the learning rate.

    lr: the highest. betas, weight_decay: as in torch. warmup_steps: of the rise. schedule: what follows, "constant" or
    "cosine", which ends in 0 at the last step of the run. ValueError in one line for what cannot train.
    """

    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    warmup_steps: int = 0
    schedule: str = "cosine"

    def __post_init__(self) -> None:
        check_adamw(self.lr, self.betas, self.weight_decay, self.warmup_steps)
        require_choice("schedule", self.schedule, ("constant", "cosine"))

    def configure(
        self, parameters: Iterable[Any], num_steps: Callable[[], float], factor: Callable[[int], float] | None = None
    ) -> dict[str, Any]:
        """What a LightningModule's configure_optimizers returns, for parameters or groups of them.

        num_steps: tells the steps of the run; asked only where the schedule depends on them. factor: see `scheduled`.
        """
        optimizer = torch.optim.AdamW(parameters, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay)
        steps = num_steps() if self.schedule == "cosine" else math.inf
        return scheduled(optimizer, steps, self.warmup_steps, factor)


def scheduled(
    optimizer: Optimizer, max_steps: float, warmup_steps: int = 0, factor: Callable[[int], float] | None = None
) -> dict[str, Any]:
    """An optimizer whose learning rates follow `warmup_cosine`, as Lightning's configure_optimizers returns it.

    The schedule keeps no number of steps of its own: a run that is resumed for more of them falls along the new cosine.
    factor: of the rate at a step, beside.
    """
    share = partial(_share, warmup_steps=warmup_steps, max_steps=max_steps, factor=factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, share), "interval": "step"}}


def _share(step: int, warmup_steps: int, max_steps: float, factor: Callable[[int], float] | None) -> float:
    return warmup_cosine(step, warmup_steps, max_steps) * (1.0 if factor is None else factor(step))


def warmup_cosine(step: int, warmup_steps: int, max_steps: float) -> float:
    """Share of the highest rate: linear from 1 / warmup_steps to 1, then half a cosine to 0 at max_steps (inf: 1).

    Loshchilov and Hutter 2017 (SGDR), Eq. 5 without restarts, after the warm-up of Goyal et al. 2017.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = min(1.0, (step - warmup_steps) / max(1, max_steps - warmup_steps))
    return (1 + math.cos(math.pi * done)) / 2
