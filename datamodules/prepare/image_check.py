"""Read every sample of a set of image shards as training would, and account for what is there and what is wrong."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from datamodules.bad_sample import BadSample
from datamodules.image_folder import named_but_missing, no_samples, stored_offsets
from datamodules.prepare.build_progress import BuildProgress
from datamodules.prepare.check_account import Report, SplitReport
from datamodules.remote import file_sha256, is_remote, local_copy
from datamodules.sample_grouping import MOST_FIELDS, TOO_MANY_FIELDS
from datamodules.sample_index import SampleIndex, read_offsets, scan_shard
from datamodules.sample_pictures import IMAGE_SUFFIXES, SeveralPictures, picture_of, several_pictures
from datamodules.shard_files import MOST_BYTES
from datamodules.shard_names import local_shards
from datamodules.shard_sources import shards_by_split

READ = (*IMAGE_SUFFIXES, "txt", "json", "npy")
SHEET_PICTURES = 60  # examples kept for the contact sheet


def check_images(
    source: str | list[str], decode: bool = True, examples: bool = False, progress: bool = False
) -> Report:
    """Check the structure of every shard and, with `decode`, every sample; ValueError if there is nothing to check."""
    report, opened = Report(), []
    for split, shards in shards_by_split(source).items():
        report.splits[split] = SplitReport()
        for shard in shards:
            index, faults = check_shard(*shard)
            report.faults += faults
            if index is not None:
                count(report.splits[split], index)
                opened.append((split, index, state(Path(index.paths[0]).stat())))
    report.faults += unusable(report)
    if not opened and not report.faults:
        raise ValueError(f"{source}: no .tar files; pack pictures with python -m datamodules.prepare folder")
    report.faults += [f"{file}: not in index.json" for file in unlisted(source)]
    if decode:
        read_all(report, opened, examples, progress)
    return report


def unusable(report: Report) -> Iterator[str]:
    """What keeps training from opening a split although each of its shards is whole."""
    for split, about in report.splits.items():
        if not about.samples and not report.faults:
            yield no_samples(split)
        if len(about.fields) > MOST_FIELDS:
            yield f"split {split!r} has {len(about.fields)} different field names; {TOO_MANY_FIELDS}"


def state(file: os.stat_result) -> tuple[int, ...]:
    """What changes when a file is replaced or written to."""
    return file.st_ino, file.st_size, file.st_mtime_ns


def read_all(report: Report, opened: list[tuple[str, SampleIndex, tuple]], examples: bool, progress: bool) -> None:
    """Read every sample of these (split, one shard, its state); what is seen and what fails goes into the report."""
    import datamodules.image_decoding  # noqa: F401  seconds, which are not the samples' fault

    total, number, first = sum(len(index) for _, index, _ in opened), 0, {}
    shown = set(np.linspace(0, total - 1, min(SHEET_PICTURES, total)).astype(int).tolist()) if examples else set()
    with BuildProgress("check", total, quiet=not progress) as bar:
        for split, index, scanned in opened:
            shard = Path(index.paths[0]).name
            with open(index.paths[0], "rb") as file:
                if state(os.fstat(file.fileno())) != scanned:
                    report.faults.append(f"{index.paths[0]}: changed while it was checked; check it again")
                    continue
                for row in range(len(index)):
                    where = f"{shard}:{index.key(row)}"
                    try:
                        digest = read_sample(report, split, sample_fields(index, row, file), number in shown)
                        if (again := f"{split}/{where}") != (known := first.setdefault(digest, again)):
                            report.duplicates.append((known, again))
                    except BadSample as bad:
                        report.unreadable.append((bad.kind, where, bad.detail))
                        report.splits[split].unreadable[bad.kind] += 1
                    number += 1
                    bar.advance(1)


def sample_fields(index: SampleIndex, row: int, file: BinaryIO) -> dict[str, bytes]:
    """The members of one sample that are read, {field: content}."""
    fields = {}
    for name in index.fields:
        if name.rpartition(".")[2] not in READ or not (span := index.span(row, name)):
            continue
        _, offset, size = span
        if size > MOST_BYTES:
            raise BadSample("too_large", f"{name} of {size} bytes")
        file.seek(offset)
        fields[name] = file.read(size)
    return fields


def read_sample(report: Report, split: str, fields: dict[str, bytes], show: bool) -> bytes:
    """Decode the pictures of one sample and read its captions; the hash of its main picture. BadSample if it is one."""
    from datamodules.captions import captions_of
    from datamodules.image_decoding import decode_image

    main = picture_of(fields)
    decoded = {
        name: decode_image(content) for name, content in fields.items() if name.rpartition(".")[2] in IMAGE_SUFFIXES
    }
    captions, _ = captions_of(fields.get("txt"), fields.get("json"))
    check_arrays(report, fields)
    about = report.splits[split]
    about.sizes.update((image.shape[2], image.shape[1]) for image in decoded.values())
    about.captions.append(len(captions[0]))
    if show:
        report.examples.append((captions[0], decode_image(main).permute(1, 2, 0).numpy()))
    return hashlib.sha256(main).digest()


def check_arrays(report: Report, fields: dict[str, bytes]) -> None:
    """BadSample unless every array of a sample can be read, and has the shape that it has in the others."""
    from datamodules.npy_decoding import decode_npy

    for name, content in fields.items():
        if name.endswith(".npy"):
            shape = decode_npy(content).shape
            if shape != (usual := report.shapes.setdefault(name, shape)):
                raise BadSample("bad_array", f"{name} of shape {shape}, before it {usual}; a batch needs one shape")


def check_shard(location: str, entry: dict | None) -> tuple[SampleIndex | None, list[str]]:
    """The index of one shard by its headers, None if it cannot be read, and the faults: one line each."""
    if entry is None and is_remote(location):
        return None, [f"{location}: remote shards without index.json are not checked; copy them here"]
    try:
        remote = entry and is_remote(location)
        path = str(local_copy(location, entry["sha256"], size=entry["bytes"])) if remote else location
        if entry and not Path(path).is_file():
            return None, [named_but_missing(path)]
        index, faults = scan_shard(path)
        offsets = entry and stored_offsets(location, entry)
    except (OSError, ValueError) as error:
        reason = str((isinstance(error, OSError) and error.strerror) or error)
        return None, [reason if reason.startswith(location) else f"{location}: {reason}"]
    if entry:
        faults = [*faults, *(f"{location}: {fault}" for fault in differences(Path(path), offsets, index, entry))]
    return index, faults


def differences(path: Path, offsets: Path | None, index: SampleIndex, entry: dict) -> Iterator[str]:
    """What of a shard and of its stored offsets is not as index.json says."""
    if (size := path.stat().st_size) != entry["bytes"]:
        yield f"{size} bytes, index.json says {entry['bytes']}"
    elif file_sha256(path) != entry["sha256"]:
        yield "content differs from index.json (sha256)"
    if (stated := entry.get("samples", len(index))) != len(index):
        yield f"{len(index)} samples, index.json says {stated}"
    if offsets is None or size != entry["bytes"]:
        return  # without them readers scan the shard
    name = entry["offsets"]
    if file_sha256(offsets) != entry["offsets_sha256"]:
        yield f"{name} differs from index.json (sha256)"
        return
    try:
        kept = read_offsets(str(offsets), str(path))
    except ValueError:
        yield f"{name} is not the offsets of this shard"
        return
    if not kept.same_places(index):
        yield f"{name} differs from the headers of the tar"


def count(report: SplitReport, index: SampleIndex) -> None:
    report.shards += 1
    report.samples += len(index)
    for name, spans in index.fields.items():
        report.fields[name] += int((spans[:, 0] >= 0).sum())
    for name in {name.rpartition(".")[0] for name in index.fields}:
        found = several_pictures(index, name and f"{name}.")
        report.several = SeveralPictures(report.several.samples + found.samples, report.several.first or found.first)


def unlisted(source: str | list[str]) -> list[str]:
    """Tars beside an index.json that does not name them."""
    if not isinstance(source, str) or is_remote(source) or not Path(source, "index.json").is_file():
        return []
    named = {shard.location for shards in shards_by_split(source).values() for shard in shards}
    return [file for file in local_shards(source) if file not in named]
