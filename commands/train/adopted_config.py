"""A run folder's own config, taken over without -c or --config: it may not decide to write elsewhere.

A config that somebody names is his word; one that merely lies in the folder may be a stranger's, as the folder.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from jsonargparse import Namespace

from commands.config_errors import read_configs

PARTS = ("trainer", "callbacks", "data")  # what writes, or keeps copies
FOLDERS = {"default_root_dir", "dirpath", "folder", "save_dir", "root_dir", "log_dir", "dir"}  # of what a run writes
FOLDERS |= {"exclude_batches_path", "cache_dir", "nvme_path", "artifact_location", "tracking_uri"}
NAMES = {"filename", "name", "version", "sub_dir"}  # parts of their names
READ = {"class_path", "monitor", "reference", "weights", "source", "tokenizer", "pretrained", "model"}  # files, hub ids
OF_THE_COMMAND = ("run_dir", "resume", "config")


def refuse_foreign_folder(file: Path) -> None:
    """ValueError in one line if config `file` decides what only a command may, or a link leads out of its folder."""
    (content,) = read_configs([file]).values()
    for key in OF_THE_COMMAND:
        if content.get(key) is not None:
            raise ValueError(f"{file} holds {key}, which only a command may; delete that line")
    for link in _links(file.parent):
        if not _within(os.path.realpath(link), file.parent):
            raise ValueError(f"{link} is a link that leads {_remedy(file, '-c')}")


def refuse_writes_outside(parsed: Mapping[str, Any] | Namespace, file: Path, flag: str = "-c") -> None:
    """ValueError in one line if what the parser made of the config `file` would write outside the file's folder.

    Not of its text, which has many ways to say one thing: keys with dots, parts in other files, values in a text.
    parsed: those of PARTS that are used, by name. flag: with which one names a config that one trusts.
    """
    for key in ("run_dir", "resume"):
        if parsed.get(key) is not None:
            raise ValueError(f"{file} holds {key}, which only a command may; delete that line")
    for key, value in _texts({part: parsed[part] for part in PARTS if part in parsed}):
        if _elsewhere(key, value, file.parent):
            raise ValueError(f"{file} lets {key} write to {value!r:.80}, {_remedy(file, flag)}")


def _remedy(file: Path, flag: str) -> str:
    return f"outside the run; if you trust this run, name its config: {flag} {quote(str(file))}"


def _elsewhere(key: str, value: str, folder: Path) -> bool:
    """Whether a text names a place outside the folder, and may be one to write to."""
    leaf = key.rpartition(".")[2]
    if key.startswith("data."):  # data are read; copies of remote ones are kept
        return leaf == "cache_dir" and not _within(value, folder)
    if leaf in FOLDERS:
        return not _within(value, folder)
    first, *others = value.split("/")
    leads = first in ("", "~", ".") or ".." in (first, *others) or "://" in value
    if leaf in NAMES:
        return bool(others) and leads
    return leaf not in READ and bool(others) and (leads or os.path.isdir(first)) and not _within(value, folder)


def _within(value: str, folder: Path) -> bool:
    """Whether a folder is this one or lies in it, the last name followed, too; an address never does."""
    return "://" not in value.removeprefix("file://") and Path(os.path.realpath(value)).is_relative_to(
        os.path.realpath(folder)
    )


def _texts(content: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Dotted key and value of every text and path."""
    content = vars(content) if isinstance(content, Namespace) else content
    if isinstance(content, str | os.PathLike):
        yield name, str(content)
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from _texts(value, f"{name}.{key}" if name else str(key))
    elif isinstance(content, list | tuple | set | frozenset):
        for value in content:
            yield from _texts(value, name)


def _links(folder: Path) -> Iterator[Path]:
    """Symbolic links in the folder, but for those in the parts of a W&B record: a new run writes a part of its own."""
    for place, folders, files in os.walk(folder):
        if Path(place) == folder / "wandb":
            folders[:] = [name for name in folders if "run-" not in name or Path(place, name).is_symlink()]
        yield from (entry for name in folders + files if (entry := Path(place, name)).is_symlink())
