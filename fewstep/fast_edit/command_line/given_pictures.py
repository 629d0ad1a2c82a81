"""Pictures that a command is given: files, folders of files, and data sets of tar shards."""

import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from fewstep.files.names import distinct, numbered_safely, safe_name
from fewstep.files.pictures import MAX_BYTES, Picture, read_picture, read_whole
from fewstep.one_line import one_line

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")


class GivenPicture(NamedTuple):
    """key: its name, safe for a file and like no other; the noise of an edit belongs to it."""

    key: str
    content: Picture


def given_pictures(places: Sequence[Path], most: int | None = None) -> list[GivenPicture]:
    """At least one picture, of a folder or a shard in the order of the names, and at most so many.

    A folder without pictures of its own may hold tar shards, as data sets do: those of training, where any is called
    so. Of a sample with several pictures KEY.png counts and KEY.NAME.png does not. ValueError in one line for a picture
    that cannot be read.
    """
    names: list[str] = []
    contents: list[Path | bytes] = []
    for place in places:
        for name, content in _of(place):
            if most is not None and len(names) == most:
                break
            try:
                read_picture(content, 1)
            except ValueError as error:
                told = str(error) if isinstance(content, Path) else f"{place}: {name}: {error}"
                raise ValueError(told) from None
            names.append(safe_name(name))
            contents.append(content)
    if not names:
        raise ValueError(f"there is no picture in {', '.join(map(str, places))}; give files of {' '.join(SUFFIXES)}")
    return [GivenPicture(*pair) for pair in zip(distinct(names, numbered_safely), contents, strict=True)]


def fitted(content: Picture, size: tuple[int, int], crop: str) -> Tensor:
    """[1, 3, H, W] in [-1, 1] of this size as `read_picture` has it; what has the shape already is averaged.

    So a drawing that was enlarged by a whole factor is as it was.
    """
    whole = read_whole(content)
    height, width = whole.shape[2:]
    if height * size[1] == width * size[0] and height >= size[0]:
        return F.interpolate(whole, size, mode="area")
    return read_picture(content, size, crop)


def _of(place: Path) -> Iterator[tuple[str, Path | bytes]]:
    if not place.is_dir():
        yield from _of_shard(place) if place.suffix == ".tar" else [(place.stem, place)]
        return
    listed = sorted(file for file in place.iterdir() if not file.name.startswith("."))
    if files := [file for file in listed if file.suffix.lower() in SUFFIXES]:
        yield from ((file.stem, file) for file in files)
        return
    shards = [file for file in listed if file.suffix == ".tar"]
    for shard in [file for file in shards if file.name.startswith("train")] or shards:
        yield from _of_shard(shard)


def _of_shard(shard: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(shard, "r:") as members:
            for member in members:
                key, _, suffix = Path(member.name).name.partition(".")
                if member.isfile() and f".{suffix.lower()}" in SUFFIXES and member.size <= MAX_BYTES:
                    file = members.extractfile(member)
                    assert file is not None
                    yield key, file.read()
    except (OSError, tarfile.TarError) as error:
        raise ValueError(f"cannot read the shard {shard}: {one_line(error)}") from None
