"""States of a training whose weights and step tell them apart."""

import torch

from callbacks import AtomicCheckpointIO

STATE = {"state_dict": {"w": torch.arange(1000.0)}, "global_step": 3}


def state(step: int, size: int = 1000) -> dict:
    return {"state_dict": {"w": torch.full((size,), float(step))}, "global_step": step}


def step_of(path) -> int:
    return AtomicCheckpointIO().load_checkpoint(path)["global_step"]


def names(folder) -> list[str]:
    return sorted(p.name for p in folder.iterdir())
