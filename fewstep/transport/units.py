"""The columns of a table and the units they are in, for a model that learnt from standardised rows.

A row is standardised by z = (value - mean) / std, column by column. A density of y in natural units is that of z,
divided by the product of the deviations (change of variables): log p(y|x) = log p(z|x) - sum log std.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from fewstep.files.plain_reader import shown
from fewstep.files.table_columns import check_columns

MOST_COLUMNS = 1 << 20
SAME = 1e-6  # of two deviations, as a share; of two means, in deviations


@dataclass(frozen=True)
class Units:
    """Dimensions, names, means and deviations of x and of y; no mean and no deviation where a side is as it was."""

    x_dim: int
    y_dim: int
    x_names: list[str] | None = None
    y_names: list[str] | None = None
    x_mean: list[float] | None = None
    x_std: list[float] | None = None
    y_mean: list[float] | None = None
    y_std: list[float] | None = None

    def standardise(self, side: str, values: Tensor) -> Tensor:
        """float64 [..., D] of natural values [..., D] of a side, "x" or "y"."""
        mean, std = self._scale(side)
        return (values.double() - mean) / std

    def restore(self, side: str, values: Tensor) -> Tensor:
        """The inverse: float64 [..., D] in natural units of standardised values [..., D]."""
        mean, std = self._scale(side)
        return values.double() * std + mean

    @property
    def log_volume(self) -> float:
        """log of the natural volume of a unit cube of standardised y: sum of the logarithms of the deviations."""
        return math.fsum(math.log(std) for std in self.y_std or ())

    def named(self, side: str) -> list[str]:
        """The names of a side's columns; x1, x2, ... or y1, y2, ... where the table has none."""
        names, dim = (self.x_names, self.x_dim) if side == "x" else (self.y_names, self.y_dim)
        return names or [f"{side}{number}" for number in range(1, dim + 1)]

    def mismatch(self, other: "Units") -> str | None:
        """What makes rows that were standardised as `other` says mean something else here, in a few words."""
        for side in "xy":
            mine, others = (getattr(units, f"{side}_names") for units in (self, other))
            if mine and others and mine != others:
                first, second = next((a, b) for a, b in zip_longest(mine, others, fillvalue="none") if a != b)
                return f"a column of {side} is {second!r} there and {first!r} here"
            if getattr(self, f"{side}_dim") != getattr(other, f"{side}_dim"):
                continue  # the network says so
            (mean, std), (there, scale) = self._scale(side), other._scale(side)
            apart = ((mean - there).abs() > SAME * std) | ((std / scale - 1).abs() > SAME)
            if apart.any():
                at = int(apart.nonzero()[0])
                told = (f"({value[at]:.6g} ± {spread[at]:.6g})" for value, spread in ((there, scale), (mean, std)))
                return (
                    f"{self.named(side)[at]} of {side} is standardised by {next(told)} there and by {next(told)} here"
                )
        return None

    def as_dict(self) -> dict[str, Any]:
        """Plain values that `read_units` takes."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    def _scale(self, side: str) -> tuple[Tensor, Tensor]:
        mean, std = (self.x_mean, self.x_std) if side == "x" else (self.y_mean, self.y_std)
        dim = self.x_dim if side == "x" else self.y_dim
        columns = torch.tensor([mean or [0.0] * dim, std or [1.0] * dim], dtype=torch.float64)
        return columns[0], columns[1]


def read_units(told: Any, name: str) -> Units:
    """Units from plain values that somebody else may have written; name: of their file. ValueError in one line."""
    if not isinstance(told, Mapping):
        raise ValueError(f"{name} gives the columns as {shown(told)}, not by name; rebuild it")
    if unknown := [key for key in told if key not in Units.__dataclass_fields__]:
        raise ValueError(f"{name} says {shown(unknown[0])} of its columns, which this version does not know")
    for side in "xy":
        dim = told.get(f"{side}_dim")
        if type(dim) is not int or not 1 <= dim <= MOST_COLUMNS:
            raise ValueError(f"{name} gives {side}_dim as {shown(dim)}, not as a number of columns; rebuild it")
        check_columns(told, side, name)
    return Units(**told)
