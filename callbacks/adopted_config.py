"""A run folder's own config, taken over by `--resume` without -c: it may not decide to write elsewhere.

A config that somebody names with -c is his word; one that merely lies in the folder may be a stranger's, as the folder.
"""

import os
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from shlex import quote
from typing import Any

from callbacks.restored_paths import inside

FOLDERS = {
    "default_root_dir",
    "dirpath",
    "folder",
    "save_dir",
    "root_dir",
    "log_dir",
    "dir",
}  # of what a run writes
NAMES = {"filename", "name", "version", "sub_dir"}  # parts of their names
OF_THE_COMMAND = ("run_dir", "resume", "config")


def refuse_writes_outside(content: Mapping[str, Any], file: Path) -> None:
    """ValueError in one line if the config `file` or a link in its folder would make a run write outside the folder."""
    folder = file.parent
    remedy = f"outside the run; if you trust this run, name its config: -c {quote(str(file))}"
    for key in OF_THE_COMMAND:
        if content.get(key) is not None:
            raise ValueError(f"{file} holds {key}, which only a command may; delete that line")
    parts = {key: content.get(key) for key in ("trainer", "callbacks")}
    for key, value in _texts(parts):
        leaf = key.rpartition(".")[2]
        elsewhere = leaf in FOLDERS and not _within(value, folder)
        if elsewhere or (leaf in NAMES and (value.startswith(("/", "~")) or ".." in value.split("/"))):
            raise ValueError(f"{file} lets {key} write to {value!r:.80}, {remedy}")
    for link in _links(folder):
        if not _within(os.path.realpath(link), folder):
            raise ValueError(f"{link} is a link that leads {remedy}")


def _within(value: str, folder: Path) -> bool:
    return inside(value, folder) or os.path.realpath(value) == os.path.realpath(folder)


def _texts(content: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Dotted key and value of every text."""
    if isinstance(content, str):
        yield name, content
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from _texts(value, f"{name}.{key}" if name else str(key))
    elif isinstance(content, list):
        for value in content:
            yield from _texts(value, name)


def _links(folder: Path) -> Iterator[Path]:
    """Symbolic links in the folder and in the folders directly below."""
    below = [entry for entry in folder.iterdir() if entry.is_dir() and not entry.is_symlink()]
    entries = chain(folder.iterdir(), *(place.iterdir() for place in below))
    return (entry for entry in entries if entry.is_symlink())
