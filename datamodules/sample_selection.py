"""Keep the samples of an index whose metadata match."""

from typing import Any

import numpy as np

from datamodules.bad_sample import BadSample
from datamodules.captions import json_object
from datamodules.sample_index import SampleIndex
from datamodules.shard_files import ShardFiles


def select(index: SampleIndex, wanted: dict[str, Any]) -> SampleIndex:
    """The samples whose KEY.json has, for every key of `wanted`, that value or one of those values.

    Reads the metadata of every sample. ValueError names the values that occur when nothing matches.
    """
    allowed = {name: set(value) if isinstance(value, list | tuple | set) else {value} for name, value in wanted.items()}
    files, kept = ShardFiles(), []
    occurring: dict[str, set] = {name: set() for name in wanted}
    for row in range(len(index)):
        metadata = read_metadata(files, index, row)
        for name, values in occurring.items():
            if len(values) < 20 and isinstance(value := metadata.get(name), str | int | float | None):
                values.add(value)
        if all(matches(metadata.get(name), values) for name, values in allowed.items()):
            kept.append(row)
    if not kept:
        found = "; ".join(f"{name}: {', '.join(sorted(map(str, values)))}" for name, values in occurring.items())
        raise ValueError(f"select={wanted} matches no sample; the metadata hold {found}")
    return index.select(np.array(kept))


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
