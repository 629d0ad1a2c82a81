"""Whether a folder of vectors has the rows that its options ask for: all that is short at once, and what would do."""

from collections.abc import Mapping
from typing import Any

from datamodules.vector_shards import ShardFolder

OPTIONS = {"train_paired": "num_pairs", "val": "num_pairs", "train_x": "num_unpaired_x", "train_y": "num_unpaired_y"}


def check_rows(folder: ShardFolder, options: Mapping[str, Any], num_val: int, splits: tuple[str, ...] = (*OPTIONS,)):
    """ValueError in one line, with the flags to paste, if one of these splits has fewer rows than are asked for.

    options: the arguments of a PairedVectorsDataModule; num_val: how many of its `num_pairs` come from `val`.
    """
    asked = {split: options[option] for split, option in OPTIONS.items()}
    asked |= {"train_paired": options["num_pairs"] - num_val, "val": num_val}
    has = {split: int(folder.open(split).group_sizes.sum()) for split in splits if asked[split]}
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
