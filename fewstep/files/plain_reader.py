"""Small readers of plain values that somebody else wrote: each accepts a kind and a range, or raises in one line."""

import math
import reprlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from fewstep.files.plain_json import read_json

MOST_REPEATED = 2**26  # bytes that a view may repeat, such as a mask that is the same for all heads
LARGEST = 2**53  # whole numbers above it are not exact as floats, which schedules make of them

Reader = Callable[[Any, str], None]  # (value, where it stands); ValueError in one line


def refuse(value: Any, name: str, expected: str) -> None:
    """ValueError that shows the value short and without control characters."""
    raise ValueError(f"{name} is {shown(value)}, expected {expected}")


def shown(value: Any) -> str:
    """At most 60 printable characters."""
    if isinstance(value, Tensor):
        kind = "" if value.layout is torch.strided else f"{str(value.layout).removeprefix('torch.')} "
        return f"a {kind}tensor of shape {tuple(value.shape)}"
    if type(value) is int and abs(value) > 10**18:
        return f"a number of {value.bit_length()} bits"
    try:
        return reprlib.repr(value)[:60]
    except ValueError:  # a nested number too long for Python to print
        return f"a {type(value).__name__}"


def whole(value: Any, name: str) -> None:
    if type(value) is not int or not 0 <= value <= LARGEST:
        refuse(value, name, f"a whole number from 0 to {LARGEST}")


def flag(value: Any, name: str) -> None:
    if type(value) is not bool:
        refuse(value, name, "true or false")


def text(value: Any, name: str) -> None:
    if type(value) is not str or "\0" in value:
        refuse(value, name, "a text")


def number(value: Any, name: str) -> None:
    """A real number or a tensor that holds one; infinity is one, NaN is not."""
    real = type(value) in (int, float) and (abs(value) <= LARGEST or abs(value) == math.inf)
    if isinstance(value, Tensor):
        real = value.numel() == 1 and value.layout is torch.strided and not value.is_complex()
        real = real and value.dtype is not torch.bool
        real = real and (isinstance(value, FakeTensor) or value.is_meta or not math.isnan(float(value)))
    if not real:
        refuse(value, name, "a number")


def positive(value: Any, name: str) -> None:
    if type(value) not in (int, float) or not 0 < value <= LARGEST:
        refuse(value, name, "a positive number")


def tensor(value: Any, name: str) -> None:
    """With values of its own: one on the meta device has none, a view of a few can claim any number of them."""
    if not isinstance(value, Tensor):
        refuse(value, name, "a tensor")
    if isinstance(value, FakeTensor) or value.layout is not torch.strided:
        return
    if value.is_meta or value.numel() * value.element_size() > max(MOST_REPEATED, value.untyped_storage().nbytes()):
        refuse(value, name, "a tensor that holds its values")


def dense(value: Any, name: str) -> None:
    """A tensor that can be written to in place: not sparse, every value of its own."""
    tensor(value, name)
    if isinstance(value, FakeTensor):
        return
    if value.layout is not torch.strided or value.numel() * value.element_size() > value.untyped_storage().nbytes():
        refuse(value, name, "a tensor that holds its values")


def mapping(value: Any, name: str) -> None:
    if not isinstance(value, Mapping):
        refuse(value, name, "a mapping")


def optional(reader: Reader) -> Reader:
    return lambda value, name: None if value is None else reader(value, name)


def either(*words: str) -> Reader:
    def read(value: Any, name: str) -> None:
        if value not in words:
            refuse(value, name, f"one of {', '.join(words)}")

    return read


def each(reader: Reader) -> Reader:
    """A list or tuple of what `reader` accepts."""

    def read(value: Any, name: str) -> None:
        if not isinstance(value, list | tuple):
            refuse(value, name, "a list")
        for place, entry in enumerate(value):
            reader(entry, f"{name}[{place}]")

    return read


def named(reader: Reader) -> Reader:
    """A mapping from texts to what `reader` accepts."""

    def read(value: Any, name: str) -> None:
        mapping(value, name)
        for key, entry in value.items():
            text(key, f"a key of {name}")
            reader(entry, f"{name}.{key if key.isprintable() else shown(key)}")

    return read


def fields(required: Mapping[str, Reader], **others: Reader) -> Reader:
    """A mapping that has all of `required`; `others` are read where they are there, further keys are left alone."""

    def read(value: Any, name: str) -> None:
        mapping(value, name)
        for key in required.keys() - value.keys():
            raise ValueError(f"{name} has no {key}")
        for key, reader in {**required, **others}.items():
            if key in value:
                reader(value[key], f"{name}.{key}" if name else key)

    return read


def read_fields(file: str | Path, parts: Reader) -> dict[str, Any]:
    """The mapping of a JSON file, with parts as `fields` says; OSError, or ValueError in one line, otherwise."""
    told = read_json(file)
    if not isinstance(told, dict):
        raise ValueError(f"it is {shown(told)}, no mapping")
    parts(told, "")
    return told
