"""The samples of training, validation and test: where each is read from, and which of them are wanted."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from datamodules.image_folder import open_images
from datamodules.image_options import Splits
from datamodules.sample_index import SampleIndex
from datamodules.sample_order import SUBSET, permutation
from datamodules.sample_pictures import several_pictures
from datamodules.sample_selection import select
from datamodules.shard_names import MEANING, examples, matching, not_read
from datamodules.shard_sources import folder_index, folders_of, named, shards_by_split, splits
from datamodules.skipped import LOG, Skipped
from fewstep.picture_size import Size, as_text, height_and_width, largest_part

LEAST_SHARE = 0.9  # of a picture that a crop may keep without a word


@dataclass(frozen=True)
class ImageSplits:
    """The three parts of the data, `train`, `val` and `test`, of an ImageTextDataModule with these arguments."""

    path: str | list[str]
    chosen: Splits
    select: dict[str, Any] | None = None
    images: Sequence[str] | None = None
    cache_dir: str | None = None
    seed: int = 0

    def place(self, part: str) -> tuple[str | list[str], str]:
        """Source and name of the split of a part; a source of its own may hold unnamed shards."""
        own, name = self._own_path(part), getattr(self.chosen, part)
        if own and len(found := splits(own)) == 1 and not matching(name, found):
            name = found[0]
        return own or self.path, name

    def _place_that_is_there(self, part: str) -> tuple[str | list[str], str]:
        """The same; ValueError in one line for a name that somebody has chosen, and that no split has."""
        source, name = self.place(part)
        if name not in MEANING and (found := splits(source)) and not matching(name, found):
            raise ValueError(
                f"splits.{part}={name}: {named(source)} has no split {name!r}, only {examples(list(found))}; name one"
            )
        return source, name

    def _own_path(self, part: str) -> str | list[str] | None:
        return getattr(self.chosen, f"{part}_path", None)

    def exists(self, part: str) -> bool:
        """Whether there is such a split; one whose name or source was chosen must be there: opening it will say so."""
        source, name = self.place(part)
        return bool(self._own_path(part)) or name not in MEANING or matching(name, splits(source)) is not None

    def fetch(self, part: str, verify: bool = False) -> None:
        """Have its shards on this machine and indexed; verify: compare them with the index."""
        open_images(*self._place_that_is_there(part), verify=verify, cache_dir=self.cache_dir)

    def open(self, part: str, skipped: Skipped, rank: int = 0) -> SampleIndex:
        """The samples that are wanted, at least one: those that `select` matches, `num_PART` of them by the seed.

        Where there are fewer to measure on, one line says so on rank 0; fewer to train on than a number that somebody
        has chosen are an error.
        """
        source, split = self._place_that_is_there(part)
        index = open_images(source, split, cache_dir=self.cache_dir)
        skipped.damaged(index.faults)
        index = select(index, self.select) if self.select else index
        for name in ("", *(f"{image}." for image in self.images or ())):
            if (found := several_pictures(index, name)).samples:
                LOG.warning(f"{named(source)}: split {split!r}: {found}")
        if (wanted := getattr(self.chosen, f"num_{part}")) is not None:
            if wanted > len(index) and part == "train":
                raise ValueError(
                    f"splits.num_{part}={wanted}: split {split!r} of {source} has {len(index)} samples; lower it"
                )
            if wanted > len(index) and rank == 0:
                LOG.warning(
                    f"{named(source)}: split {split!r} has {len(index)} samples, all of which are used; "
                    f"splits.num_{part} allows {wanted}"
                )
            index = index.select(np.sort(permutation(len(index), self.seed, SUBSET)[:wanted]))
        return index

    def tell(self, rank: int, size: Size, crop: str) -> None:
        """Say, once, what of the folder is not read, and when nothing is validated: a name may be no one's wish."""
        for line in [*self.notices(), *self.cut_away(size, crop)] if rank == 0 else ():
            LOG.warning(line)

    def cut_away(self, size: Size, crop: str) -> list[str]:
        """One line for each folder whose pictures, by its index.json, lose part of their width or height."""
        lines = []
        for folder in folders_of(self.path) if crop != "none" else ():
            if (stored := (folder_index(folder) or {}).get("image_size")) is None:
                continue
            told, (height, width) = f"{folder}: image_size", height_and_width(stored, f"{folder}: image_size")
            part = largest_part(height, width, height_and_width(size))
            if (share := part[0] * part[1] / (height * width)) < LEAST_SHARE:
                lines.append(
                    f"{told} {as_text(size)} keeps {share:.0%} of pictures of {height} x {width}; for all of them give "
                    f"data.image_size [{height}, {width}] or data.transform.crop none"
                )
        return lines

    def notices(self) -> list[str]:
        """What a user may not expect of `path`, one line each."""
        source, lines = self.path, []
        found = {split: [shard.location for shard in shards] for split, shards in shards_by_split(source).items()}
        names = {split: [re.split(r"[/\\]", file)[-1] for file in files] for split, files in found.items()}
        parts = {part: matching(getattr(self.chosen, part), found) for part in ("train", "val", "test")}
        if not self.exists("val"):
            trained = names.get(parts["train"] or "", [])
            lines.append(
                f"nothing is validated: {named(source)} has no split {self.chosen.val!r}; trained on are all "
                f"{len(trained)} shards of {parts['train']!r}: {examples(trained)}; call some val-*.tar, or give "
                "splits.val_path"
            )
        lines += [
            f"{named(source)}: split {split!r} is not read: {examples(files)}"
            for split, files in names.items()
            if split not in parts.values()
        ]
        for folder in folders_of(source):
            lines += not_read(folder, (file for files in found.values() for file in files))
        return lines
