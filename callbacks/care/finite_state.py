"""What must be finite before it is kept as a checkpoint, and what must be finite to be called the best."""

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor


def nonfinite_names(checkpoint: Mapping[str, Any]) -> list[str]:
    """Names of the weights, buffers, optimizer moments and averages in which a NaN or an infinity stands.

    Single numbers of callbacks are left out: a best score starts as infinity. One transfer per device.
    """
    named = [(f"weights {name}", tensor) for name, tensor in _tensors(checkpoint["state_dict"])]
    named += [(f"optimizer {name}", tensor) for name, tensor in _tensors(checkpoint.get("optimizer_states", []))]
    named += [(name, tensor) for name, tensor in _tensors(checkpoint.get("callbacks", {})) if tensor.ndim]
    finite: dict[torch.device, list[tuple[str, Tensor]]] = {}
    for name, tensor in named:
        finite.setdefault(tensor.device, []).append((name, tensor.isfinite().all()))
    found = []
    for pairs in finite.values():
        flags = torch.stack([flag for _, flag in pairs]).tolist()
        found += [name for (name, _), ok in zip(pairs, flags, strict=True) if not ok]
    return found


def _tensors(tree: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Dotted name and tensor of everything in floating point; of a split tensor this rank's part."""
    if isinstance(tree, Tensor):
        if tree.is_floating_point() and not tree.is_meta:
            yield prefix, tree.detach().to_local() if hasattr(tree, "to_local") else tree.detach()
        return
    entries = tree.items() if isinstance(tree, Mapping) else enumerate(tree) if isinstance(tree, list | tuple) else ()
    for name, entry in entries:
        yield from _tensors(entry, f"{prefix}.{name}" if prefix else str(name))


def refuse_nonfinite_scores(saver: ModelCheckpoint) -> None:
    """Let `saver` keep no checkpoint whose monitored metric is NaN or infinite; said once.

    Lightning counts a NaN as the worst score, and keeps the worst as `best` as long as there is no other.
    """
    if not saver.monitor or hasattr(saver, "_finite_only"):
        return
    better, saver._finite_only = saver.check_monitor_top_k, True
    said = []

    def finite_and_better(trainer: Trainer, current: Tensor | None = None) -> bool:
        finite = current is not None and bool(torch.isfinite(current))
        # A metric that is not averaged may be finite on some ranks only.
        if trainer.strategy.reduce_boolean_decision(finite, all=True):
            return better(trainer, current)
        if current is not None and not said and trainer.is_global_zero:
            said.append(True)
            value = float(current)
            print(f"{saver.monitor} is {value} at step {trainer.global_step}: not kept as the best", file=sys.stderr)
        return False

    saver.check_monitor_top_k = finite_and_better
