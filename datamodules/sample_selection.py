"""Keep the samples of an index whose metadata match."""

import difflib
from collections.abc import Iterable
from typing import Any

import numpy as np

from datamodules.bad_sample import BadSample
from datamodules.captions import json_object
from datamodules.sample_index import SampleIndex
from datamodules.shard_files import ShardFiles


def select(index: SampleIndex, wanted: dict[str, Any]) -> SampleIndex:
    """The samples whose KEY.json has, for every name of `wanted`, that value or one of those values.

    A name such as `attributes.glasses` is that of a value in an object. Reads the metadata of every sample. ValueError
    names the values that occur when nothing matches, and the nearest name where one occurs nowhere.
    """
    allowed = {name: set(value) if isinstance(value, list | tuple | set) else {value} for name, value in wanted.items()}
    files, kept = ShardFiles(), []
    occurring: dict[str, set] = {name: set() for name in wanted}
    names: dict[str, None] = {}
    for row in range(len(index)):
        metadata = read_metadata(files, index, row)
        for name, values in occurring.items():
            if len(values) < 20 and isinstance(value := value_of(metadata, name), str | int | float | None):
                values.add(value)
        if all(matches(value_of(metadata, name), values) for name, values in allowed.items()):
            kept.append(row)
        elif not kept and row < 100:
            names |= dict.fromkeys(names_in(metadata))
    if not kept:
        found = "; ".join(f"{name}: {', '.join(sorted(map(str, values)))}" for name, values in occurring.items())
        absent = [name for name, values in occurring.items() if values == {None}]
        near = [match for name in absent for match in difflib.get_close_matches(name, names, n=1)]
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise ValueError(f"select={wanted} matches no sample; the metadata hold {found}{hint}")
    return index.select(np.array(kept))


def value_of(metadata: Any, name: str) -> Any:
    """The value of a name in an object; of `first.rest` that of `rest` in `first`, or in each object of a list there.

    None where there is none.
    """
    if not isinstance(metadata, dict):
        return None
    if name in metadata:
        return metadata[name]
    first, dot, rest = name.partition(".")
    inner = metadata.get(first) if dot else None
    return [value_of(entry, rest) for entry in inner] if isinstance(inner, list) else value_of(inner, rest)


def names_in(metadata: Any, before: str = "") -> Iterable[str]:
    """All names that `value_of` knows, but for those in lists."""
    for name, value in metadata.items() if isinstance(metadata, dict) else ():
        yield before + name
        yield from names_in(value, f"{before}{name}.")


def matches(value: Any, allowed: set) -> bool:
    """A list of metadata matches if one of its entries does."""
    if isinstance(value, list):
        return any(matches(entry, allowed) for entry in value)
    return isinstance(value, str | int | float | None) and value in allowed


def read_metadata(files: ShardFiles, index: SampleIndex, row: int) -> dict[str, Any]:
    """KEY.json of a sample, {} when there is none that can be read: such a sample is counted when it is loaded."""
    if (span := index.span(row, "json")) is None:
        return {}
    try:
        return json_object(files.read(*span))
    except BadSample:
        return {}
