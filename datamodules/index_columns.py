"""What an index.json may say about the columns of x and of y: a name, a mean and a deviation of each."""

import math

LONGEST_NAME = 200  # signs; axes of plots are named so


def check_columns(index: dict, side: str, name: str) -> None:
    """ValueError unless each list of a side ("x" or "y") has one fit value for each of its columns.

    name: of the index, for the message.
    """
    for key, values in lists_of(index, side).items():
        fits, expected = EXPECTED[key.partition("_")[2]]
        if not isinstance(values, list):
            raise ValueError(f"{name} gives {key} as {str(values)[:40]!r}, not as a list; rebuild it")
        if wrong := [value for value in values if not fits(value)]:
            raise ValueError(f"{name} has {str(wrong[0])[:40]!r} in {key}, not {expected}; rebuild it")
    counts = {key: len(values) for key, values in lists_of(index, side).items()}
    if index.get(f"{side}_dim") is not None:
        counts[f"{side}_dim"] = index[f"{side}_dim"]
    if len(set(counts.values())) > 1:
        stated = ", ".join(f"{count} in {key}" for key, count in counts.items())
        raise ValueError(f"{name} tells different numbers of columns of {side}: {stated}; rebuild it")


def lists_of(index: dict, side: str) -> dict:
    """The lists of one side that are there; null is none."""
    return {key: index[key] for key in (f"{side}_{what}" for what in EXPECTED) if index.get(key) is not None}


def columns_of(index: dict, side: str) -> int | None:
    """How many columns a side has by a checked index, None if it does not tell."""
    told = [len(values) for values in lists_of(index, side).values()]
    return index.get(f"{side}_dim", told[0] if told else None)


def is_name(value: object) -> bool:
    return isinstance(value, str) and len(value) <= LONGEST_NAME


def is_finite(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


EXPECTED = {
    "names": (is_name, f"a text of at most {LONGEST_NAME} signs"),
    "mean": (is_finite, "a finite number"),
    "std": (lambda value: is_finite(value) and value > 0, "a finite number above 0"),
}
