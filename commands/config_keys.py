"""Keys of configs and of a command line: which are given, where they stand, and which one was meant."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Configs = Mapping[str, Mapping[str, Any]]  # file name -> its raw content
ON_THE_COMMAND_LINE = " (on the command line)"


def flatten(content: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Dotted names of all keys of a nested mapping, sections included."""
    for key, value in content.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")


def sections(configs: Configs) -> list[str]:
    """Dotted names of all keys that hold a class."""
    suffix = ".class_path"
    return [k.removesuffix(suffix) for content in configs.values() for k in flatten(content) if k.endswith(suffix)]


def given_keys(configs: Configs, argv: Sequence[str]) -> list[str]:
    """Dotted names of all keys that are given, without `init_args`."""
    keys = [key for content in configs.values() for key in flatten(content)]
    keys += [word.lstrip("-").split("=")[0] for word in argv if word.startswith("--")]
    return [key.replace(".init_args", "") for key in keys]


def where(key: str, configs: Configs, argv: Sequence[str], value: str = "") -> str:
    """Where a key stands, with this value if it is known: the command line is last, after it the later files."""
    plain, places = key.replace(".init_args", ""), []
    if any(name == plain or name.startswith(f"{plain}.") for name in given_keys({}, argv)):
        places.append((ON_THE_COMMAND_LINE, " ".join(argv)))
    for name, content in reversed(configs.items()):
        if plain in given_keys({name: content}, ()):
            places.append((f" (in {name})", str(content)))
    with_value = [place for place, text in places if value in text]
    return next(iter([*with_value, *(place for place, _ in places)]), "")


def unknown(key: str, valid: Sequence[str], configs: Configs, argv: Sequence[str]) -> str:
    """One line for a key that does not exist, with the nearest one that does."""
    near = nearest(key, valid)
    hint = f"; nearest valid key: {near!r}" if near else ""
    return f"unknown key {key!r}{hint}{where(key, configs, argv)}"


def nearest(word: str, candidates: Sequence[str]) -> str | None:
    """The candidate that a dotted key was probably meant to be."""
    # Compare leaf with leaf inside the same section first: a shared long prefix would make everything look alike.
    section, _, leaf = word.rpartition(".")
    siblings = {c.rpartition(".")[2]: c for c in candidates if c.rpartition(".")[0] == section}
    for pool, target in ((siblings, leaf), ({c: c for c in candidates}, word)):
        if match := difflib.get_close_matches(target, list(pool), n=1, cutoff=0.5):
            return pool[match[0]]
    return None
