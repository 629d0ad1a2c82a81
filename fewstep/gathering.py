"""Python objects from every process to every process."""

from typing import Any, TypeVar

import torch

T = TypeVar("T")


def gather(mine: T) -> list[T]:
    """`mine` of every process, by rank, on every one; all must call it.

    Objects, because a process that saw no sample knows neither names nor shapes to take part with.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [mine]
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, mine)
    return parts
