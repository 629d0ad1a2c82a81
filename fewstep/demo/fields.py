"""Number fields of the page, which a user may have emptied."""

from collections.abc import Mapping
from typing import Any


def given_number(value: float | None, field: str) -> float:
    """ValueError in one line, with the field's label, for one that is empty."""
    if value is None:
        raise ValueError(f"{field} is empty; write a number")
    return float(value)


def given_seed(value: float | None) -> int:
    return int(given_number(value, "Seed"))


def given_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The same; ValueError in one line for one that is empty."""
    if empty := [name for name, value in options.items() if value is None]:
        raise ValueError(f"{empty[0].replace('_', ' ')} is empty; give a value")
    return dict(options)
