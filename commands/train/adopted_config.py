"""A run folder's own config, taken over without -c or --config: it may not decide to write elsewhere.

A config that somebody names is his word; one that merely lies in the folder may be a stranger's, as the folder.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from shlex import quote
from typing import Any

import yaml

from commands import config_text
from commands.config_errors import read_configs

FOLDERS = {"default_root_dir", "dirpath", "folder", "save_dir", "root_dir", "log_dir", "dir"}  # of what a run writes
FOLDERS |= {"exclude_batches_path", "cache_dir", "nvme_path", "artifact_location", "tracking_uri"}
NAMES = {"filename", "name", "version", "sub_dir"}  # parts of their names
READ = {"class_path", "monitor", "reference", "weights", "source", "tokenizer", "pretrained", "model"}  # files, hub ids
OF_THE_COMMAND = ("run_dir", "resume", "config")


def refuse_writes_outside(file: Path) -> None:
    """ValueError in one line if the config `file` or a link in its folder would make a run write outside the folder."""
    (content,) = read_configs([file]).values()
    for key in OF_THE_COMMAND:
        if content.get(key) is not None:
            raise ValueError(f"{file} holds {key}, which only a command may; delete that line")
    _refuse(content, ("trainer", "callbacks", "data"), file, "-c")
    for link in _links(file.parent):
        if not _within(os.path.realpath(link), file.parent):
            raise ValueError(f"{link} is a link that leads {_remedy(file, '-c')}")


def refuse_caches_outside(file: Path) -> None:
    """The same for what an evaluation takes over from the config: data and metrics, which keep what they computed."""
    (content,) = read_configs([file]).values()
    _refuse(content, ("callbacks", "data"), file, "--config")


def _refuse(content: Mapping[str, Any], parts: tuple[str, ...], file: Path, flag: str) -> None:
    for key, value in _texts({part: content.get(part) for part in parts}):
        if not key.startswith("data.init_args.") and _has_options(_yaml(value)):
            raise ValueError(f"{file} hides options of {key} in a text; write them as keys of its own")
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
    """Symbolic links in the folder, but for those in the parts of a W&B record: a new run writes a part of its own."""
    for place, folders, files in os.walk(folder):
        if Path(place) == folder / "wandb":
            folders[:] = [name for name in folders if "run-" not in name or Path(place, name).is_symlink()]
        yield from (entry for name in folders + files if (entry := Path(place, name)).is_symlink())
