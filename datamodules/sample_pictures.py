"""Which member of a sample is its picture."""

import os
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from datamodules.bad_sample import BadSample
from datamodules.sample_index import SampleIndex

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif", "bmp")  # the first that a sample has is read


def picture_of(fields: Mapping[str, bytes], name: str = "") -> bytes:
    """The picture of a sample, or with a name such as `edited.` a further one; BadSample if there is none."""
    for suffix in IMAGE_SUFFIXES:
        if (content := fields.get(name + suffix)) is not None:
            return content
    raise BadSample("missing_image", f"no {name}{{{','.join(IMAGE_SUFFIXES)}}}")


class SeveralPictures(NamedTuple):
    """How many samples have more than one member that could be their picture; `first`: SHARD:KEY of one, and which."""

    samples: int = 0
    first: str = ""

    def __str__(self) -> str:
        of_them = f"of these the first of {', '.join(IMAGE_SUFFIXES)} is read"
        return f"samples with several pictures: {self.samples}, such as {self.first}; {of_them}"


def several_pictures(index: SampleIndex, name: str = "") -> SeveralPictures:
    """Those of the picture that `picture_of` finds by the same name."""
    fields = [name + suffix for suffix in IMAGE_SUFFIXES if name + suffix in index.fields]
    there = np.array([index.fields[field][:, 0] >= 0 for field in fields]).reshape(len(fields), len(index))
    rows = np.flatnonzero(there.sum(0) > 1)
    if not len(rows):
        return SeveralPictures()
    row = int(rows[0])
    members = ", ".join(field for field, has in zip(fields, there[:, row], strict=True) if has)
    return SeveralPictures(len(rows), f"{os.path.basename(index.paths[index.shard[row]])}:{index.key(row)} ({members})")
