"""Write index.json beside shards that were made elsewhere, such as img2dataset's; the shards stay as they are.

With an index, shards can be uploaded and then read by sample from there, with exact resume, and copies are verified.
"""

import argparse


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", metavar="DIR", help="folder with .tar files")
    command.add_argument("--name", default=None, help="name of the data set (default: that of the folder)")
    command.add_argument("--license", default="unknown", help="its licence, as an SPDX expression")
    command.add_argument("--overwrite", action="store_true", help="replace an index.json that is there")


def run(options: argparse.Namespace) -> None:
    import json
    from pathlib import Path

    from datamodules.image_folder import shards_by_split
    from datamodules.image_shard_writing import write_whole

    folder = Path(options.folder)
    target = folder / "index.json"
    if target.exists():
        if not options.overwrite:
            raise ValueError(f"{target} exists; add --overwrite to replace it")
        target.unlink()
    about = {"name": options.name or folder.resolve().name, "license": options.license, "command": options.command_line}
    index = {"schema": 1, "kind": "images", "image_size": None, **about, "notes": {}, "splits": {}}
    for split, shards in shards_by_split(str(folder)).items():
        entries = [indexed(Path(shard.location)) for shard in shards]
        index["splits"][split] = {"samples": sum(entry["samples"] for entry in entries), "shards": entries}
        print(f"{split}: {len(entries)} shards, {index['splits'][split]['samples']} samples")
    if not index["splits"]:
        raise ValueError(f"{folder}: no .tar files; name the folder that holds the shards")
    write_whole(target, json.dumps(index, indent=1).encode() + b"\n")


def indexed(path) -> dict:
    """Write the offsets of one whole shard beside it; its entry in the index."""
    from datamodules.remote import file_sha256
    from datamodules.sample_index import scan_shard, write_offsets

    index, faults = scan_shard(str(path))
    if faults:
        raise ValueError(f"{faults[0]}; an index is for whole shards: copy it again, or move it away")
    offsets = path.with_name(f"{path.stem.replace('.', '_')}.offsets.npz")
    write_offsets(str(offsets), index)
    sizes = {"bytes": path.stat().st_size, "sha256": file_sha256(path), "samples": len(index)}
    return {"file": path.name, **sizes, "offsets": offsets.name, "offsets_sha256": file_sha256(offsets)}
