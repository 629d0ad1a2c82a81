"""Ranges outside which an optimizer's option trains nothing, or everything away; said before the first step."""

import math
from collections.abc import Iterable
from typing import Any

from torch import Tensor

# name -> (least, greatest, whether the greatest is allowed); momentum 1 keeps everything, which some do on purpose
RANGES = {"lr": (0.0, math.inf, False), "weight_decay": (0.0, math.inf, False), "betas": (0.0, 1.0, False)}
RANGES |= {"momentum": (0.0, 1.0, True), "dampening": (0.0, 1.0, True), "eps": (0.0, math.inf, False)}


def check_option(kind: str, value: Any, name: str | None = None) -> None:
    """ValueError in one line for an option of this kind, a key of RANGES, that is out of range or not a number.

    value: a number, a tensor of one, several numbers, or None. name: what the user calls it.
    """
    least, greatest, closed = RANGES[kind]
    for number in _numbers(value):
        if not least <= number < greatest and not (closed and number == greatest):
            end = "" if greatest == math.inf else f" and {'at most' if closed else 'below'} {greatest:g}"
            raise ValueError(f"{name or kind}={value}: must be finite, at least {least:g}{end}")


def check_adamw(
    lr: float, betas: Iterable[float], weight_decay: float, warmup_steps: int = 0, prefix: str = ""
) -> None:
    """ValueError in one line unless AdamW can train with these; prefix: of the names of lr and weight_decay."""
    if not 0 < lr < math.inf:
        raise ValueError(f"{prefix}lr={lr}: must be positive and finite")
    check_option("betas", tuple(betas))
    check_option("weight_decay", weight_decay, f"{prefix}weight_decay")
    if warmup_steps < 0:
        raise ValueError(f"warmup_steps={warmup_steps}: must be 0 or more")


def _numbers(value: Any) -> list[float]:
    if isinstance(value, list | tuple):
        return [number for entry in value for number in _numbers(entry)]
    return [float(value)] if isinstance(value, int | float | Tensor) else []
