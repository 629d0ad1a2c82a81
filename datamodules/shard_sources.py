"""Which shards a user means: folders with or without index.json, single tars, brace expansions, lists of these.

An index.json says which shards a folder has in each split. Without one their names tell: `val-000000.tar` is in `val`;
if no name has a word for a split (see shard_names.py), all of them are `train`.
"""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from datamodules.remote import NotThereError, is_remote, list_tars, read_bytes
from datamodules.shard_names import (
    beside_shards,
    examples,
    is_shard,
    local_shards,
    matching,
    pictures_in,
    splits_by_name,
)
from datamodules.vector_shards import parse_index
from fewstep.files.local_paths import expanded, local_path, where
from fewstep.files.plain_json import small_file


class Shard(NamedTuple):
    """One tar of a split: its local path or address, and its entry in index.json (None without one)."""

    location: str
    entry: dict | None


def shard_urls(source: str | list[str], split: str) -> list[str]:
    """Paths or addresses of the shards of a split, for reading them as streams; no shard is opened."""
    return [location for location, _ in shards_of(source, split)]


def splits(source: str | list[str]) -> list[str]:
    """The splits that can be opened, in the order of the index or of the files."""
    return list(shards_by_split(source))


def shards_of(source: str | list[str], split: str) -> list[Shard]:
    """The shards of one split; ValueError names the others if there is no such split."""
    found = shards_by_split(source)
    if not (shards := found.get(matching(split, found) or "")):
        if matching(split, found):
            raise ValueError(f"{named(source)}: the index lists no shards for the split {split!r}; rebuild it")
        if not found:
            refuse_pictures(source)
        has = f"only {', '.join(map(repr, found))}" if found else f"no .tar files at all{only_others(source)}"
        raise ValueError(f"{named(source)}: no split {split!r}, {has}; correct the split or the path")
    return shards


def only_others(source: str | list[str]) -> str:
    """What lies in the folders of a source instead of shards, as the end of a line; empty if nothing does."""
    others = [name for folder in folders_of(source) for name in beside_shards(folder)]
    return f" (but {examples(others)}: unpack archives, and name the folder that holds the shards)" if others else ""


def refuse_pictures(source: str | list[str]) -> None:
    """ValueError in one line for a folder of pictures, which is to be made into shards first."""
    for folder in folders_of(source):
        if pictures := pictures_in(folder):
            made = f"python -m datamodules.prepare folder --images {shlex.quote(folder)} --out SHARDS"
            raise ValueError(
                f"{folder}: pictures ({examples(pictures)}) and no shards; make shards of them with {made}"
            )


def folders_of(source: str | list[str]) -> list[str]:
    """The local folders among the parts of a source."""
    return [location for location in locations(source) if not is_remote(location) and Path(location).is_dir()]


def shards_by_split(source: str | list[str]) -> dict[str, list[Shard]]:
    """{split: shards} over all parts of a source."""
    found: dict[str, list[Shard]] = {}
    loose: list[str] = []
    for location in locations(source):
        if is_tar(location):
            loose.append(location)
        elif (index := folder_index(location)) is not None:
            for split, entry in index["splits"].items():
                shards = [Shard(beside(location, shard["file"]), shard) for shard in entry["shards"]]
                found.setdefault(split, []).extend(shards)
        else:
            loose += remote_shards(location) if is_remote(location) else local_shards(location)
    for location, split in zip(loose, splits_by_name(loose), strict=True):
        found.setdefault(split, []).append(Shard(location, None))
    return found


def remote_shards(folder: str) -> list[str]:
    """Addresses of the shards that a server lists."""
    return [url for url in list_tars(folder) if is_shard(url.rpartition("/")[2])]


def locations(source: str | list[str]) -> Iterator[str]:
    """The folders and shards that a source names, in order; ValueError for an address that is refused."""
    for part in [source] if isinstance(source, str | Path) else source:
        for location in expanded(local_path(str(part))):
            is_remote(location)  # refuses what it does not know
            yield location


def is_tar(location: str) -> bool:
    """Whether this is one shard, by its name; a folder may be called so too."""
    return location.lower().endswith(".tar") and (is_remote(location) or not Path(location).is_dir())


def beside(folder: str, name: str) -> str:
    """Path or address of a file in a folder; in a web address the name is quoted."""
    if not is_remote(folder):
        return str(Path(folder, name))
    return f"{folder.rstrip('/')}/{quote(name) if folder.startswith('http') else name}"


def folder_index(location: str) -> dict | None:
    """The checked index.json of a folder, None if it has none; ValueError if there is no such folder."""
    if is_remote(location):
        try:
            content = read_bytes(f"{location.rstrip('/')}/index.json")
        except NotThereError:
            return None
    elif not Path(location).is_dir():
        missing = f"no such file or folder{where(location)}"
        what = "not a folder or a .tar file" if Path(location).exists() else missing
        raise ValueError(f"{location}: {what}; name a folder of shards, a .tar, or a brace expansion of .tar files")
    elif not (file := Path(location, "index.json")).is_file():
        return None
    else:
        content = small_file(file)
    return parse_index(content, location)


def source_index(source: str) -> dict | None:
    """The index.json of a source that is one folder; None for tars and brace expansions, and for a folder without."""
    places = list(locations(source))
    return folder_index(places[0]) if len(places) == 1 and not is_tar(places[0]) else None


def named(source: str | list[str]) -> str:
    return str(source) if isinstance(source, str | Path) else ", ".join(map(str, source))
