"""A run folder's own config, taken over by `--resume` without -c: it may not decide to write elsewhere.

A config that somebody names with -c is his word; one that merely lies in the folder may be a stranger's, as the folder.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from shlex import quote
from typing import Any

import yaml

from callbacks import config_text

FOLDERS = {"default_root_dir", "dirpath", "folder", "save_dir", "root_dir", "log_dir", "dir"}  # of what a run writes
FOLDERS |= {"exclude_batches_path", "cache_dir", "nvme_path", "artifact_location", "tracking_uri"}
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
        if _has_options(_yaml(value)):
            raise ValueError(f"{file} hides options of {key} in a text; write them as keys of its own")
        elsewhere = leaf in FOLDERS and not _within(value, folder)
        if elsewhere or (leaf in NAMES and (value.startswith(("/", "~")) or ".." in value.split("/"))):
            raise ValueError(f"{file} lets {key} write to {value!r:.80}, {remedy}")
    for link in _links(folder):
        if not _within(os.path.realpath(link), folder):
            raise ValueError(f"{link} is a link that leads {remedy}")


def _within(value: str, folder: Path) -> bool:
    """Whether a folder is this one or lies in it, the last name followed, too; an address never does."""
    return "://" not in value.removeprefix("file://") and Path(os.path.realpath(value)).is_relative_to(
        os.path.realpath(folder)
    )


def _yaml(text: str) -> Any:
    """What the parser would make of a text."""
    try:
        return config_text.read(text)
    except (ValueError, yaml.YAMLError):
        return None


def _has_options(value: Any) -> bool:
    """Keys with values; {epoch} in a file's name is none of these."""
    values = value.values() if isinstance(value, Mapping) else ()
    inner = value if isinstance(value, list) else ()
    return any(entry is not None for entry in values) or any(map(_has_options, inner))


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
    """Symbolic links anywhere in the folder."""
    for place, folders, files in os.walk(folder):
        yield from (entry for name in folders + files if (entry := Path(place, name)).is_symlink())
