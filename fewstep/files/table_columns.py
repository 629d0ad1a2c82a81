"""What a file may say about the columns of x and of y of a table: a name, a mean and a deviation of each."""

from collections.abc import Mapping
from typing import Any

LONGEST_NAME = 200  # signs; axes of plots are named so
LARGEST = 1e300  # of a mean or deviation, and 1 / LARGEST the smallest deviation: products with rows stay in float64


def check_columns(index: Mapping[str, Any], side: str, name: str) -> None:
    """ValueError unless each list of a side ("x" or "y") has one fit value for each of its columns.

    name: of the file, for the message.
    """
    lists = lists_of(index, side)
    for key, values in lists.items():
        fits, expected = EXPECTED[key.partition("_")[2]]
        if not isinstance(values, list):
            raise ValueError(f"{name} gives {key} as {str(values)[:40]!r}, not as a list; rebuild it")
        if wrong := [value for value in values if not fits(value)]:
            raise ValueError(f"{name} has {str(wrong[0])[:40]!r} in {key}, not {expected}; rebuild it")
    counts = {key: len(values) for key, values in lists.items()}
    if index.get(f"{side}_dim") is not None:
        counts[f"{side}_dim"] = index[f"{side}_dim"]
    if len(set(counts.values())) > 1:
        stated = ", ".join(f"{count} in {key}" for key, count in counts.items())
        raise ValueError(f"{name} tells different numbers of columns of {side}: {stated}; rebuild it")
    if (f"{side}_mean" in lists) != (f"{side}_std" in lists):
        raise ValueError(f"{name} has one of {side}_mean and {side}_std without the other; rebuild it")


def lists_of(index: Mapping[str, Any], side: str) -> dict[str, Any]:
    """The lists of one side that are there; null is none."""
    return {key: index[key] for key in (f"{side}_{what}" for what in EXPECTED) if index.get(key) is not None}


def columns_of(index: Mapping[str, Any], side: str) -> int | None:
    """How many columns a side has by a checked index, None if it does not tell."""
    told = [len(values) for values in lists_of(index, side).values()]
    return index.get(f"{side}_dim", told[0] if told else None)


def is_name(value: object) -> bool:
    return isinstance(value, str) and len(value) <= LONGEST_NAME


def is_finite(value: object) -> bool:
    """A real number that is no more than LARGEST in size."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST  # NaN is not


def is_deviation(value: object) -> bool:
    """The same, and no less than 1 / LARGEST."""
    return isinstance(value, int | float) and is_finite(value) and value >= 1 / LARGEST


EXPECTED = {
    "names": (is_name, f"a text of at most {LONGEST_NAME} signs"),
    "mean": (is_finite, f"a finite number within {LARGEST:.0e}"),
    "std": (is_deviation, f"a finite number above 0, from {1 / LARGEST:.0e} to {LARGEST:.0e}"),
}
