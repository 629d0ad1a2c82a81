"""Small networks."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from torch import nn


def mlp(in_dim: int, hidden: Sequence[int], out_dim: int, activation: nn.Module | None = None) -> nn.Sequential:
    """Linear layers of these widths with an activation (SiLU unless given) between them; ``hidden=()`` is linear.

    ValueError for a width below 1.
    """
    if min(hidden, default=1) < 1:
        raise ValueError(f"hidden={list(hidden)}: every width must be at least 1")
    layers: list[nn.Module] = []
    for before, after in pairwise([in_dim, *hidden]):
        layers += [nn.Linear(before, after), activation or nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear([in_dim, *hidden][-1], out_dim))


def options_of(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a constructor, its locals() at the first line, as plain values that a file can hold."""
    given = {name: value for name, value in arguments.items() if name not in ("self", "__class__")}
    return {name: list(value) if isinstance(value, list | tuple) else value for name, value in given.items()}
