"""Open the image shards of a split: folders with or without index.json, single tars, brace expansions, lists of these.

Local shards, and remote ones that an index.json names, become a SampleIndex: every sample can be read by number. Shards
without stored offsets are scanned once, and the offsets kept in the user's cache. Without an index, file names tell the
splits: `val-000000.tar` is in `val`; if no file name carries a usual split name, all of them are `train`.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from datamodules.remote import NotThereError, cache_folder, file_sha256, is_remote, list_tars, local_copy, read_bytes
from datamodules.sample_index import SampleIndex, read_offsets, scan_shard, write_offsets
from datamodules.vector_shards import parse_index
from fewstep.plain_json import small_file

SPLIT_NAMES = frozenset({"train", "val", "test", "valid", "validation", "eval"})
OFFSETS_NAME = re.compile(r"[A-Za-z0-9_-]+\.offsets\.npz")
SHA256 = re.compile(r"[0-9a-f]{64}")


class Shard(NamedTuple):
    """One tar of a split: its local path or address, and its entry in index.json (None without one)."""

    location: str
    entry: dict | None


def open_images(source: str | list[str], split: str, verify: bool = False, cache_dir: str | None = None) -> SampleIndex:
    """All samples of a split of local or remote shards; one-line ValueError for what is missing or does not agree.

    Args:
        source: a folder, a .tar file, a brace expansion such as `a/{000..012}.tar`, or a list of these.
        split: a key of index.json, or the one that the file names tell.
        verify: also compare the sha256 of every local shard with its index; sizes are always compared.
        cache_dir: where remote shards and the offsets of scanned ones are kept; default: fewstep in the user's cache.

    A shard without an index whose tail is damaged gives the samples before it; `.faults` of the result names them all.
    """
    parts = []
    for location, entry in shards_of(source, split):
        if entry is not None:
            parts.append(open_indexed(location, entry, verify, cache_dir))
        elif is_remote(location):
            raise ValueError(
                f"{location}: remote shards without index.json cannot be read by sample; use sampling: resampled, or "
                "copy them here, or build an index beside them"
            )
        else:
            parts.append(open_scanned(location, cache_dir))
    index = SampleIndex.concatenate(parts)
    if not len(index):
        raise ValueError(
            f"{named(source)}: split {split!r} holds no samples{': ' if index.faults else ''}"
            f"{'; '.join(index.faults[:1])}"
        )
    return index


def shard_urls(source: str | list[str], split: str) -> list[str]:
    """Paths or addresses of the shards of a split, for reading them as streams; no shard is opened."""
    return [location for location, _ in shards_of(source, split)]


def splits(source: str | list[str]) -> list[str]:
    """The splits that can be opened, in the order of the index or of the files."""
    return list(shards_by_split(source))


def shards_of(source: str | list[str], split: str) -> list[Shard]:
    """The shards of one split; ValueError names the others if there is no such split."""
    found = shards_by_split(source)
    if not found.get(split):
        has = f"only {', '.join(map(repr, found))}" if found else "no .tar files at all"
        raise ValueError(f"{named(source)}: no split {split!r}, {has}; correct the split or the path")
    return found[split]


def shards_by_split(source: str | list[str]) -> dict[str, list[Shard]]:
    """{split: shards} over all parts of a source."""
    found: dict[str, list[Shard]] = {}
    loose: list[str] = []
    for part in [source] if isinstance(source, str | Path) else source:
        for location in expanded(str(part)):
            is_remote(location)  # refuses what it does not know
            if location.endswith(".tar"):
                loose.append(location)
            elif (index := folder_index(location)) is not None:
                for split, entry in index["splits"].items():
                    shards = [Shard(f"{location.rstrip('/')}/{shard['file']}", shard) for shard in entry["shards"]]
                    found.setdefault(split, []).extend(shards)
            else:
                loose += list_tars(location) if is_remote(location) else sorted(map(str, Path(location).glob("*.tar")))
    for location, split in zip(loose, splits_by_name(loose), strict=True):
        found.setdefault(split, []).append(Shard(location, None))
    return found


def splits_by_name(files: list[str]) -> list[str]:
    """The split of each tar: what stands before its first dash, or the usual split name that its name contains."""
    stems = [Path(file).name.removesuffix(".tar") for file in files]
    prefixes = [stem.partition("-")[0] for stem in stems]
    if not SPLIT_NAMES.isdisjoint(prefixes):
        return prefixes
    found = [next((part for part in re.split("[-_.]", stem) if part in SPLIT_NAMES), None) for stem in stems]
    if any(found):  # such as imagenet1k-validation-0000.tar
        return [name or prefix for name, prefix in zip(found, prefixes, strict=True)]
    return ["train"] * len(files)


def expanded(part: str) -> Iterator[str]:
    """The addresses that a brace expansion stands for; a local path that exists as it is stands for itself."""
    from braceexpand import UnbalancedBracesError, braceexpand

    if "{" not in part or (not is_remote(part) and Path(part).exists()):
        yield part
        return
    try:
        yield from braceexpand(part)
    except UnbalancedBracesError as error:
        raise ValueError(f"{part}: {error}; write {{000..012}}, with both braces") from error


def folder_index(location: str) -> dict | None:
    """The checked index.json of a folder, None if it has none; ValueError if there is no such folder."""
    if is_remote(location):
        try:
            content = read_bytes(f"{location.rstrip('/')}/index.json")
        except NotThereError:
            return None
    elif not Path(location).is_dir():
        what = "not a folder or a .tar file" if Path(location).exists() else "no such file or folder"
        raise ValueError(f"{location}: {what}; name a folder of shards, a .tar, or a brace expansion of .tar files")
    elif not (file := Path(location, "index.json")).is_file():
        return None
    else:
        content = small_file(file)
    index = parse_index(content, location)
    for entry in (shard for split in index["splits"].values() for shard in split["shards"] if "offsets" in shard):
        if not OFFSETS_NAME.fullmatch(str(entry["offsets"])) or not SHA256.fullmatch(str(entry.get("offsets_sha256"))):
            raise ValueError(f"{location}/index.json names the offsets {entry['offsets']!r}; rebuild the folder")
    return index


def open_indexed(location: str, entry: dict, verify: bool, cache_dir: str | None) -> SampleIndex:
    """One shard that index.json describes; ValueError unless it is the very file."""
    offsets = f"{location.rpartition('/')[0]}/{entry['offsets']}" if "offsets" in entry else None
    if is_remote(location):
        path = str(local_copy(location, entry["sha256"], cache_dir, entry["bytes"]))
        most = 4 * entry["bytes"] + (1 << 16)  # as read_offsets
        offsets = offsets and str(local_copy(offsets, entry["offsets_sha256"], cache_dir, most))
    else:
        path = location
        if not Path(path).is_file():
            raise ValueError(f"{path}: missing, but index.json names it; copy it again or rebuild the folder")
    if (size := Path(path).stat().st_size) != entry["bytes"]:
        raise ValueError(f"{path}: {size} bytes, index.json says {entry['bytes']}; copy it again or rebuild it")
    if verify and file_sha256(Path(path)) != entry["sha256"]:
        raise ValueError(f"{path}: content differs from index.json (sha256); copy it again or rebuild it")
    if offsets and Path(offsets).is_file():
        if file_sha256(Path(offsets)) != entry["offsets_sha256"]:
            raise ValueError(f"{offsets}: content differs from index.json (sha256); delete it or copy it again")
        index = read_offsets(offsets, path)
    else:
        index = open_scanned(path, cache_dir)
    if index.faults or len(index) != entry.get("samples", len(index)):
        fault = index.faults[0] if index.faults else f"{path}: {len(index)} samples, index.json says {entry['samples']}"
        raise ValueError(f"{fault}; copy it again or rebuild it")
    return index


def open_scanned(path: str, cache_dir: str | None = None) -> SampleIndex:
    """One local shard by its headers; those of a whole one are kept in the cache and read from there the next time."""
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file; correct the path")
    state = Path(path).stat()
    identity = json.dumps([str(Path(path).resolve()), state.st_size, state.st_mtime_ns])
    kept = cache_folder(cache_dir) / "index" / f"{hashlib.sha256(identity.encode()).hexdigest()}.npz"
    try:
        return read_offsets(str(kept), path)
    except (OSError, ValueError):
        index, faults = scan_shard(path)
    if not faults:
        with suppress(OSError):  # a cache that cannot be written costs time only
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_offsets(str(kept), index)
    return index


def named(source: str | list[str]) -> str:
    return str(source) if isinstance(source, str | Path) else ", ".join(map(str, source))
