"""Python objects from every process to every process."""

from typing import Any, TypeVar

import torch
from lightning.pytorch import Trainer

T = TypeVar("T")


def gather(trainer: Trainer, mine: T) -> list[T]:
    """`mine` of every process, by rank, on every one; all must call it.

    Objects, because a process that saw no sample knows neither names nor shapes to take part with.
    """
    if trainer.world_size == 1:
        return [mine]
    parts: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(parts, mine)
    return parts
