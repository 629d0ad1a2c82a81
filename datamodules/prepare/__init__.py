"""Build shard folders: `python -m datamodules.prepare NAME --out DIR`. One file per data set."""

import argparse


def add_output_arguments(command: argparse.ArgumentParser) -> None:
    """The arguments of every command that writes a folder."""
    command.add_argument("--out", required=True, metavar="DIR", help="folder to write; must be empty or absent")
    command.add_argument("--overwrite", action="store_true", help="replace the whole shard folder at --out")
    command.add_argument("--seed", type=seed, default=0, help="seed of every random draw (default 0)")


def seed(text: str) -> int:
    if not text.strip().isdecimal():
        raise argparse.ArgumentTypeError(f"{text}; give a whole number of at least 0")
    return int(text)
