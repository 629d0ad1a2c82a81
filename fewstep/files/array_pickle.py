"""Reads a pickle that holds nothing but nested dicts of numpy arrays, without running anything that it names.

Weights of JAX models are published like this. A plain `pickle.load` would call whatever function the file names; here
every name is answered with a stand-in of ours or refused, and arrays are rebuilt from their bytes.
"""

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np

DTYPES = ("f2", "f4", "f8", "i4", "i8", "u1")


class _Dtype:
    """In place of numpy.dtype."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code = code

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1]

    def plain(self) -> np.dtype:
        if self.code not in DTYPES or getattr(self, "order", "<") not in "<|=":
            raise pickle.UnpicklingError(f"an array of type {str(self.code)[:20]!r}")
        return np.dtype(f"<{self.code}")


class _Name:
    """In place of numpy.ndarray, which `_reconstruct` is given."""


class _Array:
    """In place of the function `_reconstruct`: an array once its state is set."""

    def __init__(self, *_: Any) -> None:
        self.value: np.ndarray | None = None

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, is_fortran, content = state
        if not isinstance(dtype, _Dtype) or not isinstance(content, bytes):
            raise pickle.UnpicklingError("an array that is not made of plain numbers")
        plain = dtype.plain()
        if math.prod(shape) * plain.itemsize != len(content):
            raise pickle.UnpicklingError(f"an array of shape {shape} with {len(content)} bytes")
        self.value = np.frombuffer(content, plain).reshape(shape, order="F" if is_fortran else "C")


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type:
        if (module, name) == ("numpy", "dtype"):
            return _Dtype
        if (module, name) == ("numpy", "ndarray"):
            return _Name
        if (module, name) in (("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")):
            return _Array
        raise pickle.UnpicklingError(f"the name {module}.{name}"[:100])


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """ "a/b/c" -> array for the nested dicts of a pickle file. ValueError in one line for anything else in it."""
    try:
        with open(path, "rb") as file:
            return _flat(_ArraysOnly(file).load())
    except Exception as error:  # a crafted file makes the unpickler raise whatever it likes
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
        raise ValueError(f"refusing {path}: it should hold numpy arrays in dicts and nothing else ({reason})") from None


def _flat(tree: Any, prefix: str = "", depth: int = 0) -> dict[str, np.ndarray]:
    if isinstance(tree, _Array) and tree.value is not None and prefix:
        return {prefix: tree.value}
    if not isinstance(tree, dict) or depth > 8 or not all(isinstance(name, str) for name in tree):
        raise pickle.UnpicklingError(f"found {type(tree).__name__} at {prefix or 'the top'}")
    parts = [_flat(value, f"{prefix}/{name}" if prefix else name, depth + 1) for name, value in tree.items()]
    return {name: value for part in parts for name, value in part.items()}
