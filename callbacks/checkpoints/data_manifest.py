"""Which data a run has seen, in a few lines: the digest and the counts of each data folder's index.json."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fewstep.files.local_paths import expanded, local_path
from fewstep.files.plain_json import parse_json, small_file
from fewstep.files.remote_reading import StatusError, read_bytes
from fewstep.files.secrets import USER_IN_URL


def data_paths(hparams: Mapping[str, Any]) -> dict[str, Any]:
    """Where a datamodule with these hyper-parameters reads: `path`, and `val_path` and `test_path` of its splits."""
    splits = hparams.get("splits")
    own = splits if isinstance(splits, Mapping) else {}
    return {"path": hparams.get("path"), "val_path": own.get("val_path"), "test_path": own.get("test_path")}


def data_manifests(hparams: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What identifies the data behind each of data_paths: name, sha256 of index.json, license, counts.

    Folders without an index.json (loose shards) are left out. Addresses are read through fsspec.
    Errors: OSError in one line for an address that cannot be read, ValueError for an index that is none.
    """
    found = {}
    for place in data_paths(hparams).values():
        for source in _as_list(place):
            raw = _read_index(source)
            index = parse_json(raw) if raw else None
            if isinstance(index, dict):
                found[source] = {
                    "name": str(index.get("name") or Path(source).name),
                    "sha256": hashlib.sha256(raw).hexdigest(),
                    "license": index.get("license"),
                    "splits": {name: _counts(split) for name, split in index.get("splits", {}).items()},
                } | ({"source": USER_IN_URL.sub("***@", source)} if "://" in source else {})
    return list(found.values())


def data_identities(path: Any) -> tuple[list[dict[str, str]], list[str]]:
    """Name, kind and digest of each part of `path`, and one line for each part that cannot be told from others.

    A folder with an index.json counts by that; all loose shards, in folders and by name, together count as one part by
    their names and sizes, wherever they lie. Errors: as data_manifests; ValueError for a brace without its partner.
    """
    found, loose, unknown = [], [], []
    for source in _as_list(path):
        for place in expanded(local_path(source)):
            if not _is_remote_tar(place) and (indexed := data_manifests({"path": place})):
                found.append({"name": indexed[0]["name"], "kind": "index", "sha256": indexed[0]["sha256"]})
            elif shards := _local_shards(place):
                loose += [f"{shard.name}/{shard.stat().st_size}" for shard in shards]
            elif "://" in place or Path(place).exists():
                unknown.append(f"{USER_IN_URL.sub('***@', source)} has no index.json and no shards on this machine")
    if loose:
        name = f"{len(loose)} shards without an index.json"
        digest = hashlib.sha256("\n".join(sorted(loose)).encode()).hexdigest()
        found.append({"name": name, "kind": "shards", "sha256": digest})
    return found, list(dict.fromkeys(unknown))


def _is_remote_tar(place: str) -> bool:
    return "://" in place and place.lower().endswith(".tar")


def _local_shards(place: str) -> list[Path]:
    """The .tar files that a path stands for: itself, or those in a folder."""
    if "://" in place:
        return []
    if Path(place).is_dir():
        named = (file for file in Path(place).iterdir() if re.fullmatch(r"[^.].*\.tar", file.name, re.IGNORECASE))
        return [file for file in named if file.is_file()]
    return [Path(place)] if Path(place).is_file() else []


def _as_list(value: Any) -> list[str]:
    return [str(v) for v in (value if isinstance(value, list | tuple) else [value]) if v]


def _read_index(source: str) -> bytes | None:
    if "://" in source:
        try:
            return read_bytes(f"{source.rstrip('/')}/index.json")
        except ValueError as error:  # its message may repeat the address without what makes a password recognisable
            address, cause = USER_IN_URL.sub("***@", source), error.__cause__
            reason = cause if isinstance(cause, StatusError) else type(cause).__name__
            raise OSError(f"index.json of {address} cannot be read: {reason}") from None
    index = Path(local_path(source), "index.json")
    return small_file(index) if index.is_file() else None


def _counts(split: Mapping[str, Any]) -> dict[str, int]:
    shards = split.get("shards", [])
    numbers = {name: split[name] for name in ("samples", "rows") if name in split}
    return numbers | {"shards": len(shards), "bytes": sum(shard.get("bytes", 0) for shard in shards)}
