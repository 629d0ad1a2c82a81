"""The text of a config: safe YAML or JSON in which every key stands once and nothing is larger than it looks."""

import functools
from collections.abc import Iterator
from typing import Any

import jsonargparse
import yaml

MOST_VALUES = 200_000  # after references; a config has a few hundred


def read(text: str) -> Any:
    """Values of the text. Errors: yaml.YAMLError; ValueError in one line for a key that stands twice."""
    check(text)
    try:
        return yaml.safe_load(text)
    except (KeyError, AttributeError, OverflowError) as error:  # of tags such as !!bool and !!timestamp
        raise yaml.YAMLError(f"a value does not fit its tag ({error})") from None


def use_in_parsers() -> None:
    """Let jsonargparse read its YAML, files and values alike, under the same rules."""
    if (plain := jsonargparse.get_loader("yaml")) is not _parse:
        _parse.plain = plain  # type: ignore[attr-defined]
        jsonargparse.set_loader("yaml", _parse, exceptions=(yaml.YAMLError,))


def _parse(text: str) -> Any:
    check(text)
    return _parse.plain(text)  # type: ignore[attr-defined]


@functools.lru_cache(maxsize=256)
def check(text: str) -> None:
    """ValueError in one line for a key twice, nesting without end or too deep, references that multiply."""
    if len(text) < 64 and not set(":{&") & set(text):  # a plain value
        return
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is not None and _size(node, {}) > MOST_VALUES:
            raise ValueError(f"its references unfold to more than {MOST_VALUES} values")
        places = [] if node is None else list(_keys(node, ""))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    first: dict[tuple[str, str], int] = {}
    for key, name, line in places:
        if key in first:
            raise ValueError(f"the key {name!r} stands twice, in lines {first[key]} and {line}; keep one of them")
        first[key] = line


def _size(node: yaml.Node, known: dict[int, int | None]) -> int:
    """Values below a node, each counted as often as it is referred to."""
    if id(node) in known:
        if (size := known[id(node)]) is None:
            raise ValueError(f"line {node.start_mark.line + 1} refers to itself")
        return size
    if (tag := node.tag.rpartition(":")[2]) in ("set", "omap", "pairs", "binary"):
        raise ValueError(f"line {node.start_mark.line + 1} has the tag !!{tag}; write plain keys and values")
    known[id(node)] = None
    parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
    known[id(node)] = size = 1 + sum(_size(part, known) for part in parts if isinstance(part, yaml.Node))
    return size


def _keys(node: yaml.Node, prefix: str) -> Iterator[tuple[tuple[str, str], str, int]]:
    """(what must be unique, dotted name, line) of all keys.

    A plain value is also the same key where one is written with dots: `trainer.max_steps: 3` and `max_steps: 3` below
    `trainer:`. Sections with dots may stand beside others of the same start.
    """
    if isinstance(node, yaml.SequenceNode):
        for number, entry in enumerate(node.value):
            yield from _keys(entry, f"{prefix}{number}.")
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        word = key.value if isinstance(key, yaml.ScalarNode) else f"line {key.start_mark.line + 1}"
        section = "." in word and not isinstance(value, yaml.ScalarNode)
        yield (prefix, word) if section else (prefix + word, ""), prefix + word, key.start_mark.line + 1
        yield from _keys(value, f"{prefix}{word}.")
