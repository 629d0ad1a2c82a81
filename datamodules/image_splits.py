"""The samples of training, validation and test: where each is read from, and which of them are wanted."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from datamodules.image_folder import open_images
from datamodules.sample_index import SampleIndex
from datamodules.sample_order import SUBSET, permutation
from datamodules.sample_pictures import several_pictures
from datamodules.sample_selection import select
from datamodules.shard_names import MEANING, examples, matching, not_read
from datamodules.shard_sources import folders_of, named, shards_by_split, splits
from datamodules.skipped import LOG, Skipped


def place(options: Mapping[str, Any], part: str) -> tuple[str | list[str], str]:
    """Source and name of the split of train, val or test; a source of its own may hold unnamed shards.

    options: the arguments of an ImageTextDataModule.
    """
    own, name = options.get(f"{part}_path"), options[f"{part}_split"]
    if own and len(found := splits(own)) == 1 and not matching(name, found):
        name = found[0]
    return own or options["path"], name


def exists(options: Mapping[str, Any], part: str) -> bool:
    """Whether there is such a split; one whose name or source was chosen must be there, and opening it will say so."""
    source, name = place(options, part)
    return bool(options.get(f"{part}_path")) or name not in MEANING or matching(name, splits(source)) is not None


def tell(options: Mapping[str, Any], rank: int) -> None:
    """Say, once, what of the folder is not read, and when nothing is validated: a name may be no one's wish."""
    for line in notices(options) if rank == 0 else ():
        LOG.warning(line)


def notices(options: Mapping[str, Any]) -> list[str]:
    """What a user may not expect of `path`, one line each."""
    source, lines = options["path"], []
    found = {split: [shard.location for shard in shards] for split, shards in shards_by_split(source).items()}
    names = {split: [re.split(r"[/\\]", file)[-1] for file in files] for split, files in found.items()}
    parts = {part: matching(options[f"{part}_split"], found) for part in ("train", "val", "test")}
    if not exists(options, "val"):
        trained = names.get(parts["train"] or "", [])
        lines.append(
            f"nothing is validated: {named(source)} has no split {options['val_split']!r}; trained on are all "
            f"{len(trained)} shards of {parts['train']!r}: {examples(trained)}; call some val-*.tar, or give val_path"
        )
    lines += [
        f"{named(source)}: split {split!r} is not read: {examples(files)}"
        for split, files in names.items()
        if split not in parts.values()
    ]
    for folder in folders_of(source):
        lines += not_read(folder, (file for files in found.values() for file in files))
    return lines


def open_split(options: Mapping[str, Any], part: str, skipped: Skipped) -> SampleIndex:
    """The samples that are wanted, at least one: those that `select` matches, `num_PART` of them by the seed."""
    source, split = place(options, part)
    index = open_images(source, split, cache_dir=options["cache_dir"])
    skipped.damaged(index.faults)
    index = select(index, options["select"]) if options["select"] else index
    for name in ("", *(f"{image}." for image in options["images"] or ())):
        if (found := several_pictures(index, name)).samples:
            LOG.warning(f"{named(source)}: split {split!r}: {found}")
    if (wanted := options[f"num_{part}"]) is not None:
        if wanted > len(index):
            raise ValueError(f"num_{part}={wanted}: split {split!r} of {source} has {len(index)} samples; lower it")
        index = index.select(np.sort(permutation(len(index), options["seed"], SUBSET)[:wanted]))
    return index
