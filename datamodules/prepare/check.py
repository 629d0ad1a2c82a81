"""Compare a shard folder with its index: sizes, sha256, counts, whole tars, finite values."""

import argparse
import sys


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", metavar="DIR")


def run(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from datamodules.vector_shards import ShardFolder

    folder, faults = ShardFolder(options.folder, verify=True), []
    table = Table(
        "split", "shards", "rows", "x", "y", title=f"{options.folder}: {folder.index.get('name', 'no index')}"
    )
    for split, entry in folder.index["splits"].items():
        found = split_faults(folder, split)
        faults += found
        if not found:
            opened = folder.open(split)
            sides = [str(side.dim) if side else "-" for side in (opened.x, opened.y)]
            table.add_row(split, str(len(entry["shards"])), str(opened.group_sizes.sum()), *sides)
    faults += unlisted(folder)
    Console().print(table)
    for fault in faults:
        print(f"fault: {fault}", file=sys.stderr)
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
    from pathlib import Path

    if folder.remote or not Path(folder.path, "index.json").is_file():
        return []
    named = {shard["file"] for split in folder.index["splits"].values() for shard in split["shards"]}
    return [f"{file}: not in index.json" for file in sorted(Path(folder.path).glob("*.tar")) if file.name not in named]
