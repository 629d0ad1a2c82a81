"""Write index.json beside image shards that were made elsewhere, such as img2dataset's; the shards stay as they are.

With an index, shards can be uploaded and then read by sample from there, with exact resume, and copies are verified.
"""

import argparse

from datamodules.prepare.saying import say


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", metavar="DIR", help="folder with .tar files")
    command.add_argument("--name", default=None, help="name of the data set (default: that of the folder)")
    command.add_argument("--license", default="unknown", help="its licence, as an SPDX expression")
    command.add_argument("--overwrite", action="store_true", help="replace an index.json that is there")


def run(options: argparse.Namespace) -> None:
    import json
    from pathlib import Path

    from datamodules.shard_names import local_shards, not_read
    from fewstep.files.durable import replace_file

    folder = Path(options.folder)
    target = folder / "index.json"
    if target.exists() and not options.overwrite:
        raise ValueError(f"{target} exists; add --overwrite to replace it")
    scanned = scan_all(folder)  # whatever is refused is refused before anything is written
    about = {"name": options.name or folder.resolve().name, "license": options.license, "command": options.command_line}
    index = {"schema": 1, "kind": "images", "image_size": None, **about, "notes": {}, "splits": {}}
    for split, shards in scanned.items():
        entries = [indexed(path, found) for path, found in shards]
        index["splits"][split] = {"samples": sum(entry["samples"] for entry in entries), "shards": entries}
        say(f"{split}: {len(entries)} shards, {index['splits'][split]['samples']} samples")
    replace_file(target, json.dumps(index, indent=1).encode() + b"\n")
    for line in not_read(str(folder), local_shards(str(folder))):
        say(line)


def scan_all(folder) -> dict:
    """{split: [(path, its SampleIndex)]} of the shards; ValueError unless all are whole and an index can name them."""
    from pathlib import Path

    from datamodules.image_folder import no_samples
    from datamodules.prepare.check import holds_vectors
    from datamodules.sample_index import scan_shard
    from datamodules.shard_names import is_plain_name, local_shards, splits_by_name

    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; name the one that holds the shards")
    files, scanned = local_shards(str(folder)), {}
    for file, split in zip(files, splits_by_name(files), strict=True):
        if not is_plain_name(Path(file).name, ".tar"):
            raise ValueError(f"{file!a}: an index cannot name it; rename it, without \\, * and control characters")
        index, faults = scan_shard(file)
        if faults:
            raise ValueError(f"{faults[0]}; an index is for whole shards: pack or copy it again, or move it away")
        if holds_vectors(index):
            raise ValueError(
                f"{file}: holds vectors (KEY.x.npy, KEY.y.npy), this index is of pictures; the folder is read as it "
                "is, without one, and python -m datamodules.prepare table writes vectors with theirs"
            )
        scanned.setdefault(split, []).append((Path(file), index))
    for split, shards in scanned.items():
        if not any(len(index) for _, index in shards):
            raise ValueError(f"{folder}: {no_samples(split)}; pack its shards again, or move them away")
    if not files:
        from datamodules.shard_sources import only_others

        raise ValueError(f"{folder}: no .tar files{only_others(str(folder))}; name the folder that holds the shards")
    return scanned


def indexed(path, index) -> dict:
    """Write the offsets of one whole shard beside it; its entry in the index."""
    from datamodules.remote import file_sha256
    from datamodules.sample_index import write_offsets

    offsets = path.with_name(f"{path.name.removesuffix('.tar')}.offsets.npz")
    write_offsets(str(offsets), index)
    sizes = {"bytes": path.stat().st_size, "sha256": file_sha256(path), "samples": len(index)}
    return {"file": path.name, **sizes, "offsets": offsets.name, "offsets_sha256": file_sha256(offsets)}
