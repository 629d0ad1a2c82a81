"""Pictures that a command is given: files, folders of files, and data sets of tar shards."""

import tarfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor
from torch.nn import functional as F

from fewstep.files.names import distinct, numbered_safely, safe_name
from fewstep.files.pictures import MAX_BYTES, Picture, read_picture, read_whole
from fewstep.files.plain_json import parse_json
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
    return selected_pictures(places, most, {})[0]


def selected_pictures(
    places: Sequence[Path], most: int | None, wanted: Mapping[str, str]
) -> tuple[list[GivenPicture], int]:
    """(as `given_pictures`, of those with these attributes alone, how many others were passed over).

    wanted: {attribute: value}, to be found in the `attributes` of NAME.json beside the picture. ValueError in one line
    also for a picture without.
    """
    names: list[str] = []
    contents: list[Path | bytes] = []
    passed_over = 0
    for place in places:
        for name, content, metadata in _of(place):
            if most is not None and len(names) == most:
                break
            if wanted and not _has(wanted, metadata, f"{place}: {name}"):
                passed_over += 1
                continue
            try:
                read_picture(content, 1)
            except ValueError as error:
                told = str(error) if isinstance(content, Path) else f"{place}: {name}: {error}"
                raise ValueError(told) from None
            names.append(safe_name(name))
            contents.append(content)
    if not names:
        where = ", ".join(map(str, places))
        if passed_over:
            told = ", ".join("=".join(pair) for pair in wanted.items())
            raise ValueError(f"none of the {passed_over} pictures in {where} has {told}; check the attribute's values")
        raise ValueError(f"there is no picture in {where}; give files of {' '.join(SUFFIXES)}")
    given = zip(distinct(names, numbered_safely), contents, strict=True)
    return [GivenPicture(*pair) for pair in given], passed_over


def fitted(content: Picture, size: tuple[int, int], crop: str) -> Tensor:
    """[1, 3, H, W] in [-1, 1] of this size as `read_picture` has it; what has the shape already is averaged.

    So a drawing that was enlarged by a whole factor is as it was.
    """
    whole = read_whole(content)
    height, width = whole.shape[2:]
    if height * size[1] == width * size[0] and height >= size[0]:
        return F.interpolate(whole, size, mode="area")
    return read_picture(content, size, crop)


def _has(wanted: Mapping[str, str], metadata: Path | bytes, name: str) -> bool:
    try:
        told: Any = parse_json(metadata if isinstance(metadata, bytes) else metadata.read_bytes())
    except FileNotFoundError:
        told = None
    except ValueError as error:
        raise ValueError(f"{name}: its metadata are {one_line(error)}") from None
    attributes = told.get("attributes") if isinstance(told, dict) else None
    if not isinstance(attributes, dict):
        asked = " ".join("=".join(pair) for pair in wanted.items())
        raise ValueError(f"{name} has no attributes in a .json beside it, by which --lacking {asked} could be told")
    return all(attributes.get(attribute) == value for attribute, value in wanted.items())


def _of(place: Path) -> Iterator[tuple[str, Path | bytes, Path | bytes]]:
    """(name, picture, metadata, which may not be there) of each."""
    if not place.is_dir():
        yield from _of_shard(place) if place.suffix == ".tar" else [_of_file(place)]
        return
    listed = sorted(file for file in place.iterdir() if not file.name.startswith("."))
    if files := [file for file in listed if file.suffix.lower() in SUFFIXES]:
        yield from map(_of_file, files)
        return
    shards = [file for file in listed if file.suffix == ".tar"]
    for shard in [file for file in shards if file.name.startswith("train")] or shards:
        yield from _of_shard(shard)


def _of_file(file: Path) -> tuple[str, Path, Path]:
    return file.stem, file, file.with_suffix(".json")


def _of_shard(shard: Path) -> Iterator[tuple[str, bytes, bytes]]:
    """Of consecutive members with one name before the first point."""
    try:
        with tarfile.open(shard, "r:") as members:
            for key, sample in groupby(members, lambda member: Path(member.name).name.partition(".")[0]):
                found, metadata = list[bytes](), b"null"
                for member in sample:
                    suffix = "." + Path(member.name).name.partition(".")[2].lower()
                    if not (member.isfile() and suffix in (*SUFFIXES, ".json") and member.size <= MAX_BYTES):
                        continue
                    file = members.extractfile(member)
                    assert file is not None
                    if suffix == ".json":
                        metadata = file.read()
                    else:
                        found.append(file.read())
                yield from ((key, picture, metadata) for picture in found)
    except (OSError, tarfile.TarError) as error:
        raise ValueError(f"cannot read the shard {shard}: {one_line(error)}") from None
