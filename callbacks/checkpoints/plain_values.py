"""Hyper-parameters of a checkpoint as plain values: anything else could not be loaded again with weights_only=True."""

import enum
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor

HPARAMS = ("hyper_parameters", "datamodule_hyper_parameters")
LOADABLE = (str, int, float, bool, type(None), bytes, complex, torch.dtype, torch.device, torch.Size)
_said: set[str] = set()


def with_plain_hparams(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The checkpoint with paths, NumPy values, enums, functions and objects in its hparams turned into plain values.

    Functions and classes become their import path, other objects `<their.Class>`; that is said once on stderr.
    """
    result = dict(checkpoint)
    for key in HPARAMS:
        if isinstance(result.get(key), Mapping):
            result[key] = plain(result[key], key)
    return result


def plain(value: Any, name: str) -> Any:
    """`value` made of plain types only; `name` is where it stands, for the line on stderr."""
    if type(value) in LOADABLE or type(value) is Tensor:
        return value
    if isinstance(value, Namespace):
        value = vars(value)
    if isinstance(value, Mapping):
        return {plain(k, name): plain(v, f"{name}.{k}") for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        kind = set if isinstance(value, set | frozenset) else tuple if isinstance(value, tuple) else list
        return kind(plain(v, name) for v in value)
    if isinstance(value, enum.Enum):
        return plain(value.value, name)
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist(), name)
    if isinstance(value, PurePath):
        return str(value)
    for kind in (bool, int, float, str):  # a subclass of a plain type
        if isinstance(value, kind):
            return kind(value)
    return _described(value, name)


def _described(value: Any, name: str) -> str:
    named = value if hasattr(value, "__qualname__") else type(value)
    path = f"{named.__module__}.{named.__qualname__}"
    text = path if named is value else f"<{path}>"
    if name not in _said:
        _said.add(name)
        print(f"checkpoint: {name} is no plain value and is written as {text!r}", file=sys.stderr)
    return text


def first_object(value: Any, name: str = "") -> str | None:
    """Where the first value stands that is neither a tensor nor plain, as `callbacks.Name.key (its type)`."""
    return next(_objects(value, name), None)


def _objects(value: Any, name: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _objects(entry, f"{name}.{key}" if name else str(key))
    elif type(value) in (list, tuple, set):
        for entry in value:
            yield from _objects(entry, name)
    elif type(value) not in LOADABLE and not isinstance(value, Tensor):
        yield f"{name} ({type(value).__module__}.{type(value).__qualname__})"
