"""The samples of training, validation and test: where each is read from, and which of them are wanted."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from datamodules.image_folder import open_images, splits
from datamodules.sample_index import SampleIndex
from datamodules.sample_order import SUBSET, permutation
from datamodules.sample_selection import select
from datamodules.skipped import Skipped


def place(options: Mapping[str, Any], part: str) -> tuple[str | list[str], str]:
    """Source and name of the split of train, val or test; a source of its own may hold unnamed shards.

    options: the arguments of an ImageTextDataModule.
    """
    own, name = options.get(f"{part}_path"), options[f"{part}_split"]
    if own and name not in (found := splits(own)) and len(found) == 1:
        name = found[0]
    return own or options["path"], name


def exists(options: Mapping[str, Any], part: str) -> bool:
    source, name = place(options, part)
    return name in splits(source)


def open_split(options: Mapping[str, Any], part: str, skipped: Skipped) -> SampleIndex:
    """The samples that are wanted, at least one: those that `select` matches, `num_PART` of them by the seed."""
    source, name = place(options, part)
    index = open_images(source, name, cache_dir=options["cache_dir"])
    skipped.damaged(index.faults)
    index = select(index, options["select"]) if options["select"] else index
    if (wanted := options[f"num_{part}"]) is not None:
        if wanted > len(index):
            raise ValueError(f"num_{part}={wanted}: split {name!r} of {source} has {len(index)} samples; lower it")
        index = index.select(np.sort(permutation(len(index), options["seed"], SUBSET)[:wanted]))
    return index
