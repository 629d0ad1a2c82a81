"""What a run promises under a fault, as checks that either pass or say in one line what was found instead."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from callbacks.checkpoints.monitored_metrics import KEY

WITHIN = 30.0  # seconds after a fault until every process has ended


class Missed(Exception):  # noqa: N818
    """A promise that was not kept; its text goes into the table."""


def require(condition: bool, text: str) -> None:
    if not condition:
        raise Missed(text)


def says(output: str, pattern: str) -> None:
    """The output has a line that matches (case does not matter)."""
    tail = " / ".join(output.splitlines()[-3:])[-300:]
    found = re.search(pattern, output, re.IGNORECASE | re.MULTILINE)
    require(found is not None, f"no line like {pattern!r} in: {tail}")


def no_traceback(output: str) -> None:
    require("Traceback (most recent call last)" not in output, f"a traceback: {output.strip().splitlines()[-1][:200]}")


def load(path: Path) -> dict[str, Any]:
    """A checkpoint, read whole and without running code from it."""
    try:
        return torch.load(path, weights_only=True)
    except Exception as error:
        raise Missed(f"{path.name} cannot be read: {str(error)[:120]}") from error


def loadable(run: Path) -> list[Path]:
    """The checkpoints of a run that can be read; Missed if there is none."""
    whole = []
    for file in sorted(run.glob("checkpoints/*.ckpt")):
        try:
            load(file)
        except Missed:
            continue
        whole.append(file)
    require(bool(whole), f"no checkpoint in {run.name} can be read")
    return whole


def leftovers(run: Path) -> list[str]:
    """Partly written checkpoints."""
    return sorted(file.name for file in run.glob("checkpoints/.*.tmp.*"))


def same_state(one: Mapping[str, Any], two: Mapping[str, Any]) -> None:
    """Weights, optimizers, schedules, moving average and the wait of early stopping are equal bit for bit."""
    for part in ("global_step", "epoch", "state_dict", "optimizer_states", "lr_schedulers"):
        _same(one[part], two[part], part)
    for name in sorted({*one["callbacks"], *two["callbacks"]}):
        if name.startswith(("EMA", "EarlyStopping")):
            _same(one["callbacks"].get(name), two["callbacks"].get(name), name)


def finite(value: Any, name: str = "checkpoint") -> None:
    """No NaN or infinity among the tensors of a nested value."""
    if isinstance(value, torch.Tensor):
        require(not value.is_floating_point() or bool(value.isfinite().all()), f"{name} is not finite")
    elif isinstance(value, Mapping | list | tuple):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, item in items:
            if key != KEY:  # what was measured, which may well be NaN
                finite(item, f"{name}.{key}")


def _same(one: Any, two: Any, name: str) -> None:
    if isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor):
        equal = torch.equal(one, two)
    elif isinstance(one, Mapping) and isinstance(two, Mapping):
        require(one.keys() == two.keys(), f"{name} has other entries")
        for key, value in one.items():
            _same(value, two[key], f"{name}.{key}")
        return
    elif isinstance(one, list | tuple) and isinstance(two, list | tuple):
        require(len(one) == len(two), f"{name} has {len(one)} and {len(two)} entries")
        for number, (left, right) in enumerate(zip(one, two, strict=True)):
            _same(left, right, f"{name}.{number}")
        return
    else:
        equal = one == two
    require(equal, f"{name} differs from the uninterrupted run's")
