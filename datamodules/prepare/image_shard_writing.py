"""Write a folder of image shards and its index: in `OUT.partial` first, where an interrupted build goes on later.

index.json:
    {schema: 1, kind: "images", name, license, command,   what it is, under which licence, the command that built it
     image_size,                                          edge in pixels or [height, width] if all are equal, or null
     notes: {..., skipped: {KIND: {count, keys}}},        facts about how it was made, and what had to be left out
     splits: {SPLIT: {samples, shards: [{file, bytes, sha256, samples, offsets, offsets_sha256}]}}}
The same samples give the same bytes: members carry no time and no owner.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from datamodules.bad_sample import BadSample
from datamodules.prepare.build_plan import plan_of, staging_folder
from datamodules.prepare.build_progress import BuildProgress
from datamodules.prepare.folder_replacing import real_folder, refuse_to_lose, replace_folder
from datamodules.prepare.shard_writing import checked_key
from datamodules.remote import file_sha256
from datamodules.sample_grouping import LONGEST_KEY
from datamodules.sample_index import read_offsets, scan_shard, write_offsets
from fewstep.files.durable import replace_file, sync_folder, write_synced
from fewstep.files.plain_json import read_json

SPLIT = re.compile(r"[A-Za-z0-9_]+")
SUFFIX = re.compile(r"[a-z0-9][a-z0-9_]*(\.[a-z0-9_]+)*")
KEYS_LISTED = 100  # skipped keys of each kind that the index names


class Samples(NamedTuple):
    """One split: `render(key)` gives {suffix without the first dot: content}, such as "webp", "txt", "edited.webp"."""

    keys: Sequence[str]
    render: Callable[[str], dict[str, bytes]]


def write_image_folder(
    out: str,
    splits: dict[str, Samples],
    description: dict,
    overwrite: bool = False,
    samples_per_shard: int = 1000,
    texts: Mapping[str, str] = MappingProxyType({}),
    progress: bool = True,
    sources: Iterable[Path] = (),
) -> dict:
    """Write `splits` to the folder `out` and return its index; `description` has name, license, command and more.

    Every finished shard is safe in `OUT.partial`: the same call after an interruption renders only what is missing.
    texts: {name of a file beside the shards, such as NOTICE: what it says}.
    sources: files and folders that `render` reads; once one of them has changed, no build goes on.
    `render` may raise BadSample, which leaves the sample out. ValueError in one line for keys that WebDataset would
    cut or that occur twice, for a folder that is in the way, and for an `OUT.partial` of another plan.
    """
    target = real_folder(out)
    refuse_to_lose(target, overwrite)
    check_plan(splits, description, samples_per_shard)
    keys = {split: samples.keys for split, samples in splits.items()}
    plan = plan_of(keys, description["command"], samples_per_shard, sources)
    with staging_folder(target, plan) as staging:
        total = sum(len(samples.keys) for samples in splits.values())
        with BuildProgress(target.name, total, quiet=not progress) as bar:
            shards = {split: write_split(staging, split, s, samples_per_shard, bar) for split, s in splits.items()}
        index = index_of(description, shards)
        verify(staging, index)
        write_synced(staging / "index.json", json.dumps(index, indent=1).encode() + b"\n")
        for name, text in texts.items():
            write_synced(staging / name, text.encode())
        replace_folder(staging, target, overwrite)
        for file in (f for rest in ("plan.json", "*.done.json", "*.tmp", ".*.tmp.*") for f in target.glob(rest)):
            file.unlink(missing_ok=True)
    return index


def check_plan(splits: dict[str, Samples], description: dict, samples_per_shard: int) -> None:
    """ValueError unless everything can be written and told apart."""
    if missing := {"name", "license", "command"} - set(description):
        raise ValueError(f"the description of an image folder needs {', '.join(sorted(missing))}")
    if samples_per_shard < 1:
        raise ValueError(f"samples_per_shard={samples_per_shard}: a shard holds 1 sample or more")
    for split, samples in splits.items():
        if not SPLIT.fullmatch(split):
            raise ValueError(f"split {split!r}: use letters, digits and _ only")
        if not samples.keys:
            raise ValueError(f"split {split!r} has no samples; leave it out")
        seen = set()
        for key in samples.keys:
            if len(checked_key(key)) > LONGEST_KEY or key in seen:
                why = "occurs twice" if key in seen else f"has more than {LONGEST_KEY} characters"
                raise ValueError(f"split {split!r}: key {key[:80]!r} {why}")
            seen.add(key)


def write_split(folder: Path, split: str, samples: Samples, samples_per_shard: int, bar: BuildProgress) -> list[dict]:
    """An entry for each shard of a split, with what was left out as `skipped`; finished shards are not made again."""
    entries = []
    for number, start in enumerate(range(0, len(samples.keys), samples_per_shard)):
        keys = samples.keys[start : start + samples_per_shard]
        done = folder / f"{split}-{number:06d}.done.json"  # written when the tar and its offsets are safe
        if done.is_file():
            bar.advance(len(keys))
        else:
            entry = write_shard(folder / f"{split}-{number:06d}.tar", keys, samples.render, bar)
            replace_file(done, json.dumps(entry).encode())
        entries.append(read_json(done))
    return entries


def write_shard(path: Path, keys: Sequence[str], render: Callable, bar: BuildProgress) -> dict:
    """Render, write, sync and read back one tar and its offsets; its index entry and `skipped` [[kind, key]]."""
    from webdataset import TarWriter

    partial, offsets = path.with_name(f"{path.name}.tmp"), path.with_name(f"{path.stem}.offsets.npz")
    written, skipped = [], []
    with partial.open("wb") as file:
        with TarWriter(file, encoder=False, mtime=0, user="", group="") as tar:
            for key in keys:
                try:
                    tar.write({"__key__": key, **checked_fields(key, render(key))})
                    written.append(key)
                except BadSample as bad:
                    skipped.append((bad.kind, key))
                bar.advance(1)
        file.flush()
        os.fsync(file.fileno())
    if not written:
        partial.unlink()
        return {"samples": 0, "skipped": skipped}
    partial.replace(path)
    index, faults = scan_shard(str(path))
    if faults or [index.key(i) for i in range(len(index))] != written:
        raise ValueError(f"{path}: what was written does not read back; check the disk ({faults[:1]})")
    write_offsets(str(offsets), index)
    sync_folder(path.parent)
    sizes = {"bytes": path.stat().st_size, "sha256": file_sha256(path), "samples": len(written)}
    stored = {"offsets": offsets.name, "offsets_sha256": file_sha256(offsets)}
    return {"file": path.name, **sizes, **stored, "skipped": skipped}


def checked_fields(key: str, fields: dict[str, bytes]) -> dict[str, bytes]:
    """The fields of one sample as they are; ValueError for a suffix that readers would take for another."""
    for suffix, content in fields.items():
        if not SUFFIX.fullmatch(suffix) or not isinstance(content, bytes):
            raise ValueError(f"sample {key!r}: field {suffix!r}: use lower-case letters, digits, _ and dots, and bytes")
    if not fields:
        raise ValueError(f"sample {key!r} has no fields; raise BadSample to leave it out")
    return fields


def index_of(description: dict, shards: dict[str, list[dict]]) -> dict:
    """The content of index.json; `skipped` of the shards becomes a note. Only the first split needs samples."""
    skipped: dict[str, dict] = {}
    for kind, key in (fault for entries in shards.values() for entry in entries for fault in entry["skipped"]):
        note = skipped.setdefault(kind, {"count": 0, "keys": []})
        note["count"] += 1
        note["keys"] += [key] if note["count"] <= KEYS_LISTED else []
    index = {"schema": 1, "kind": "images", "image_size": None, **description}
    index["notes"] = {**description.get("notes", {}), **({"skipped": skipped} if skipped else {})}
    index["splits"] = {}
    for split, entries in shards.items():
        kept = [{k: v for k, v in entry.items() if k != "skipped"} for entry in entries if entry["samples"]]
        if kept:
            index["splits"][split] = {"samples": sum(entry["samples"] for entry in kept), "shards": kept}
        elif split == next(iter(shards)):
            raise ValueError(f"split {split!r}: no sample can be used; {next(iter(skipped))} for all of them")
    return index


def verify(folder: Path, index: dict) -> None:
    """Read every file back; ValueError if one is not what the index says."""
    for shard in (shard for entry in index["splits"].values() for shard in entry["shards"]):
        for name, sha256 in ((shard["file"], shard["sha256"]), (shard["offsets"], shard["offsets_sha256"])):
            if not (folder / name).is_file() or file_sha256(folder / name) != sha256:
                raise ValueError(f"{folder / name} has changed since it was written; delete {folder} to start anew")
        read_offsets(str(folder / shard["offsets"]), str(folder / shard["file"]))
