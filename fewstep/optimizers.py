"""Learning rate over the course of training, as a share of the highest one."""

import math
from functools import partial
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warmup_cosine(step: int, warmup_steps: int, max_steps: float) -> float:
    """Linear from 1 / warmup_steps to 1, then half a cosine to 0 at max_steps; constant if max_steps is inf.

    Loshchilov and Hutter 2017 (SGDR), Eq. 5 without restarts, after the warm-up of Goyal et al. 2017.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = min(1.0, (step - warmup_steps) / max(1, max_steps - warmup_steps))
    return (1 + math.cos(math.pi * done)) / 2


def warmup_cosine_of(optimizer: Optimizer, warmup_steps: int, max_steps: float) -> dict[str, Any]:
    """What a LightningModule's configure_optimizers returns for this optimizer and `warmup_cosine` at every step."""
    share = partial(warmup_cosine, warmup_steps=warmup_steps, max_steps=max_steps)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, share), "interval": "step"}}
