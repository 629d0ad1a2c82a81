"""Open the image shards of a split: local ones, and remote ones that an index.json names, as a SampleIndex.

Every sample of it can be read by number. Shards are scanned once, and the offsets kept in the user's cache; those that
came with a shard must say what its own headers say. Which files are read, and of which split: shard_sources.py.
"""

import hashlib
import json
from contextlib import suppress
from pathlib import Path

from datamodules.foreign_files import missing, what_lies_at
from datamodules.remote import cache_folder, file_sha256, is_remote, local_copy
from datamodules.sample_index import OFFSETS_VERSION, SampleIndex, read_offsets, scan_shard, write_offsets
from datamodules.shard_sources import beside, named, shards_of


def open_images(source: str | list[str], split: str, verify: bool = False, cache_dir: str | None = None) -> SampleIndex:
    """All samples of a split of local or remote shards; one-line ValueError for what is missing or does not agree.

    Args:
        source: a folder, a .tar file, a brace expansion such as `a/{000..012}.tar`, or a list of these.
        split: a key of index.json, or the one that the file names tell.
        verify: also compare the sha256 of every shard with its index, each time; sizes, counts and the sha256 of
            offsets are always compared, and offsets with the headers of their tar once on each machine.
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
        raise ValueError(": ".join([named(source), no_samples(split), *index.faults[:1]]))
    return index


def no_samples(split: str) -> str:
    return f"split {split!r} holds no samples"


def open_indexed(location: str, entry: dict, verify: bool, cache_dir: str | None) -> SampleIndex:
    """One shard that index.json describes; ValueError unless it is the very file."""
    offsets = stored_offsets(location, entry, cache_dir)
    if is_remote(location):
        path = str(local_copy(location, entry["sha256"], cache_dir, entry["bytes"]))
    else:
        path = location
        if not Path(path).is_file():
            raise ValueError(named_but_missing(path))
    if (size := Path(path).stat().st_size) != entry["bytes"]:
        what = what_lies_at(path) or "copy it again or rebuild it"
        raise ValueError(f"{path}: {size} bytes, index.json says {entry['bytes']}; {what}")
    if verify and file_sha256(Path(path)) != entry["sha256"]:
        raise ValueError(f"{path}: content differs from index.json (sha256); copy it again or rebuild it")
    if offsets is not None and file_sha256(offsets) != entry["offsets_sha256"]:
        raise ValueError(f"{offsets}: content differs from index.json (sha256); delete it or copy it again")
    index = open_scanned(path, cache_dir, offsets)
    if index.faults or len(index) != entry.get("samples", len(index)):
        fault = index.faults[0] if index.faults else f"{path}: {len(index)} samples, index.json says {entry['samples']}"
        raise ValueError(f"{fault}; copy it again or rebuild it")
    return index


def named_but_missing(path: str) -> str:
    return f"{path}: missing, but index.json names it ({missing(path)}), or rebuild the folder"


def stored_offsets(location: str, entry: dict, cache_dir: str | None = None) -> Path | None:
    """The offsets file of a shard of an index.json, here; None where there is none, and the shard is scanned."""
    if "offsets" not in entry:
        return None
    file = beside(location.rpartition("/")[0], entry["offsets"])
    if is_remote(location):
        most = 4 * entry["bytes"] + (1 << 16)  # as read_offsets
        file = str(local_copy(file, entry["offsets_sha256"], cache_dir, most))
    return Path(file) if Path(file).is_file() else None


def open_scanned(path: str, cache_dir: str | None = None, offsets: Path | None = None) -> SampleIndex:
    """One local shard by its headers; those of a whole one are kept in the cache and read from there the next time.

    offsets: what a stranger says about the shard; ValueError unless the headers say the same.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path}: {missing(path)}")
    kept = cache_folder(cache_dir) / "index" / f"{identity(path, offsets)}.npz"
    try:
        return read_offsets(str(kept), path)
    except (OSError, ValueError):
        index, faults = scan_shard(path)
    if faults:
        return index
    if offsets and not index.same_places(read_offsets(str(offsets), path)):
        raise ValueError(f"{offsets}: differs from the headers of {path}; delete it, or rebuild the folder")
    if kept.stem == identity(path, offsets):  # not written to while it was scanned
        with suppress(OSError):  # a cache that cannot be written costs time only
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_offsets(str(kept), index)
    return index


def identity(path: str, offsets: Path | None) -> str:
    """What changes when a shard or the offsets that came with it are replaced or written to, as a name for a file.

    The time of the last change of state counts too, since programs that copy or unpack set the other one as they like.
    """
    about = [OFFSETS_VERSION, str(Path(path).resolve())]
    for file in filter(None, (Path(path), offsets)):
        state = file.stat()
        about += [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()
