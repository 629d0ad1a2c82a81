"""Which rows of a folder of vectors are used, and all that is short at once where it has fewer than are asked for."""

from collections.abc import Mapping
from typing import Any

from datamodules.vector_shards import ShardFolder

OPTIONS = {"train_paired": "num_pairs", "val": "num_pairs", "train_x": "num_unpaired_x", "train_y": "num_unpaired_y"}

NAMES = {"train_paired": "training pairs", "val": "validation pairs", "train_x": "unpaired x", "train_y": "unpaired y"}


def num_rows(folder: ShardFolder, split: str) -> int:
    """How many rows a split has."""
    return int(folder.open(split).group_sizes.sum())


def rows_used(folder: ShardFolder, wanted: Mapping[str, int | None]) -> str:
    """What is used of each split, of how many rows; wanted: None means all."""
    parts = []
    for split, number in wanted.items():
        there = num_rows(folder, split) if split in folder else 0
        parts.append(f"{there if number in (None, there) else f'{number} of {there}'} {NAMES[split]}")
    return ", ".join(parts)


def check_rows(folder: ShardFolder, options: Mapping[str, Any], num_val: int, splits: tuple[str, ...] = (*OPTIONS,)):
    """ValueError in one line, with the flags to paste, if one of these splits has fewer rows than are asked for.

    options: the arguments of a PairedVectorsDataModule; num_val: how many of its `num_pairs` come from `val`.
    """
    asked = {split: options[option] for split, option in OPTIONS.items()}
    asked |= {"train_paired": options["num_pairs"] and options["num_pairs"] - num_val, "val": num_val}
    has = {split: num_rows(folder, split) for split in splits if asked[split]}
    short = [split for split, number in has.items() if asked[split] > number]
    if not short:
        return
    flags = {OPTIONS[split]: has[split] for split in short}
    if "num_pairs" in flags:
        flags["num_pairs"] = most_pairs(has, options["num_pairs"], options["val_fraction"])
    lacking = (
        f"{OPTIONS[split]}={options[OPTIONS[split]]} asks for {asked[split]} rows of {split!r}, it has {has[split]}"
        for split in short
    )
    pasted = " ".join(f"--data.{option} {number}" for option, number in flags.items())
    raise ValueError(f"{folder.path}: {', '.join(lacking)}; build a larger folder, or give {pasted}")


def most_pairs(has: Mapping[str, int], asked: int, val_fraction: float) -> int:
    """The most pairs, below those asked for, of which each split that is looked at has its share; at least 1."""
    for number in range(asked - 1, 1, -1):
        val = round(number * val_fraction)
        if val <= has.get("val", val) and number - val <= has.get("train_paired", number):
            return number
    return 1
