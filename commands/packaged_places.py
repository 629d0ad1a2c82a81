"""data/NAME and assets/NAME in configs: where the working directory has none, those that come with the code."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from commands.config_keys import Configs
from commands.packaged_files import IN_WHEEL, ROOT

FOLDERS = ("data", "assets")


def located(value: Any) -> Any:
    """The value with every place below FOLDERS that is not here, but comes with the code, as the one that is read."""
    if isinstance(value, str):
        return str(ROOT / value) if _is_elsewhere(value) and os.path.exists(ROOT / value) else value
    if isinstance(value, Mapping):
        return {key: located(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(located, value))
    return Namespace(**located(vars(value))) if isinstance(value, Namespace) else value


def locate(settings: Namespace) -> list[str]:
    """Put located() in the place of every value of parsed settings; returns one line for each place that it found."""
    lines: list[str] = []
    for key, value in list(settings.items()):
        found = located(value)
        changed = zip(_texts(value), _texts(found), strict=True)
        if told := [f"{old} is not in this folder, read from {new}" for old, new in changed if old != new]:
            settings[key] = found
            lines += told
    return list(dict.fromkeys(lines))


def require_located(settings: Namespace, configs: Configs) -> None:
    """ValueError in one line where a config of the wheel names a place below FOLDERS that is neither here nor in it.

    configs: raw contents by file. In a checkout, who reads the place says what is wrong with it.
    """
    files = [content for file, content in configs.items() if IN_WHEEL and Path(file).is_relative_to(ROOT)]
    ours = {text for content in files for text in _texts(content)}
    for key, value in settings.items():
        for text in _texts(value):
            if text in ours and _is_elsewhere(text) and not os.path.exists(ROOT / text):
                build = "build it with fewstep prepare, " if text.startswith("data/") else ""
                option = f"--{key.replace('.init_args', '')}"
                raise ValueError(
                    f"{text} is neither here nor in the installed package; {build}run in a clone of the "
                    f"source code, which has it, or give another {option}"
                )


def _is_elsewhere(text: str) -> bool:
    """Whether this is a place below FOLDERS that is not in the working directory."""
    first, *others = text.split("/")
    return first in FOLDERS and any(others) and ".." not in others and not os.path.lexists(text)


def _texts(value: Any) -> Iterator[str]:
    value = vars(value) if isinstance(value, Namespace) else value
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for entry in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(entry)
