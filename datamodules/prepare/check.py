"""Verify a folder of shards: sizes, sha256, whole tars, counts; finite values of vectors, every picture and caption."""

import argparse
import sys
from pathlib import Path

from datamodules.prepare.saying import say


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", metavar="DIR", help="a folder of shards, a .tar, or a brace expansion of .tar files")
    command.add_argument("--sheet", metavar="FILE.png", help="also write a contact sheet of pictures and captions")
    command.add_argument("--quick", action="store_true", help="do not decode pictures: sizes, hashes and headers only")
    command.add_argument("--limit", type=int, default=20, help="unreadable samples to name, of each kind (default 20)")


def run(options: argparse.Namespace) -> int:
    """Print the report; 1 if anything is wrong."""
    if source_of_vectors(options.folder):
        if options.sheet or options.quick:
            raise ValueError(f"{options.folder}: holds vectors; --sheet and --quick are for pictures")
        return check_vectors(options.folder)
    from datamodules.prepare.folder_replacing import is_sheet
    from datamodules.prepare.image_check import check_images
    from datamodules.prepare.image_report import print_report, write_sheet
    from datamodules.shard_names import local_shards, not_read
    from datamodules.shard_sources import folders_of

    if options.sheet and (options.quick or not options.sheet.endswith(".png")):
        raise ValueError(f"--sheet {options.sheet}: name a .png file, and leave --quick out")
    if options.sheet and Path(options.sheet).exists() and not is_sheet(Path(options.sheet)):
        raise ValueError(f"--sheet {options.sheet} is there, and no contact sheet; name another file")
    report = check_images(options.folder, decode=not options.quick, examples=bool(options.sheet), progress=True)
    print_report(options.folder, report, not options.quick, options.limit)
    for folder in folders_of(options.folder):
        for line in not_read(folder, local_shards(folder)):  # an index that does not name one is a fault above
            say(line)
    if options.sheet:
        write_sheet(Path(options.sheet), report)
    return 0 if report.sound else 1


def source_of_vectors(source: str) -> bool:
    """True for an index.json of vectors or, where it does not say, if the first shard holds vectors."""
    from datamodules.remote import is_remote
    from datamodules.sample_index import scan_shard
    from datamodules.shard_sources import shard_urls, source_index, splits

    if (kind := (source_index(source) or {}).get("kind")) is not None:
        return kind == "vectors"
    found = splits(source)
    first = shard_urls(source, found[0])[0] if found else None
    if first is None or is_remote(first) or not Path(first).is_file():
        return False
    return holds_vectors(scan_shard(first)[0])


def holds_vectors(index) -> bool:
    """Whether a shard is one of vectors: KEY.x.npy or KEY.y.npy, which may lie beside pictures too, and no picture."""
    from datamodules.sample_pictures import IMAGE_SUFFIXES

    pictures = any(name.rpartition(".")[2] in IMAGE_SUFFIXES for name in index.fields)
    return not pictures and not {"x.npy", "y.npy"}.isdisjoint(index.fields)


def check_vectors(path: str) -> int:
    """Compare vector shards with their index; 1 if there are faults."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from datamodules.vector_shards import ShardFolder
    from fewstep.one_line import printable

    folder, faults = ShardFolder(path, verify=True), []
    title = Text(printable(f"{path}: {folder.index.get('name', 'no index')}"))
    table = Table("split", "shards", "rows", "x", "y", title=title)
    for split, entry in folder.index["splits"].items():
        found = split_faults(folder, split)
        faults += found
        if not found:
            opened = folder.open(split)
            sides = [str(side.dim) if side else "-" for side in (opened.x, opened.y)]
            table.add_row(Text(printable(split)), str(len(entry["shards"])), str(opened.group_sizes.sum()), *sides)
    faults += unlisted(folder)
    Console().print(table)
    for fault in faults:
        say(f"fault: {fault}", sys.stderr)
    return 1 if faults else 0


def split_faults(folder, split: str) -> list[str]:
    """One line for each bad shard of a split, or for the split as a whole."""
    import numpy as np

    from datamodules.vector_shards import Rows

    faults = []
    for entry in folder.index["splits"][split]["shards"]:
        try:
            for sample in folder.shard(entry):
                for block in filter(None, sample):
                    Rows([block]).take(np.arange(len(block.rows)))
        except ValueError as error:
            faults.append(str(error))
    if faults:
        return faults
    try:
        opened, stated = folder.open(split), folder.index["splits"][split].get("rows")
    except ValueError as error:
        return [str(error)]
    rows = int(opened.group_sizes.sum())
    return [f"{split}: {rows} rows, index.json says {stated}"] if stated not in (None, rows) else []


def unlisted(folder) -> list[str]:
    """One line for each tar beside an index that does not name it."""
    from datamodules.shard_names import local_shards

    if folder.remote or not Path(folder.path, "index.json").is_file():
        return []
    named = {shard["file"] for split in folder.index["splits"].values() for shard in split["shards"]}
    return [f"{file}: not in index.json" for file in local_shards(folder.path) if Path(file).name not in named]
