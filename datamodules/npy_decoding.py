"""Arrays from the bytes of a .npy file: the one reader of them in this package; nothing is evaluated or unpickled.

numpy's own reader evaluates the header as a Python literal, and hostile ones end it in a dozen kinds of errors, or in a
shape that no library takes. Here a header is what writers of plain arrays write, matched by one pattern, or damaged.
"""

import math
import re
import struct
from typing import Any

import numpy as np

from datamodules.bad_sample import BadSample

MAGIC = b"\x93NUMPY"
LENGTHS = {b"\x01\x00": struct.Struct("<H"), b"\x02\x00": struct.Struct("<I")}  # of the header, by format version
LONGEST_HEADER = 1 << 12  # bytes; numpy writes 118
MOST_DIMS = 32
MOST_VALUES = 1 << 40  # what the dimensions multiply to, those of length 0 left out
ITEM = rb"""'descr' ?: ?'([<>|=][a-zA-Z]\d{0,4})'|'fortran_order' ?: ?(True|False)|'shape' ?: ?\(([\dL, ]*)\)"""
HEADER = re.compile(rb"\{ ?(?:(?:%s) ?(?:, ?|(?=\}))){3}\} *\n?" % ITEM)
SHAPE = re.compile(rb"(?:\d{1,13}L?, ?)*(?:\d{1,13}L?)?")  # Python 2 wrote 10L
NUMBERS = frozenset(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)) | {"f2", "f4", "f8"}


def decode_npy(content: bytes) -> np.ndarray:
    """A writable array of real numbers, native byte order, any shape; BadSample("bad_array") for everything else."""
    values = view_npy(content)
    return np.array(values, dtype=values.dtype.newbyteorder("="), order="C")


def view_npy(raw: Any, strings: bool = False) -> np.ndarray:
    """The array in these bytes (anything with the buffer interface), without a copy; BadSample("bad_array").

    Real numbers of at most 8 bytes are read, with `strings` byte strings too.
    """
    view = memoryview(raw)
    dtype, fortran, shape, start = _header(view)
    if dtype.kind == "S" and not strings:
        raise BadSample("bad_array", f"dtype {dtype}, only real numbers of at most 8 bytes are read")
    if len(shape) > MOST_DIMS or math.prod(filter(None, shape)) > MOST_VALUES:
        raise BadSample("bad_array", f"shape {str(shape)[:80]} has too many dimensions or values")
    if start + dtype.itemsize * math.prod(shape) != len(view):  # before anything is allocated
        raise BadSample("bad_array", f"{len(view)} bytes do not hold an array of shape {shape}")
    return np.frombuffer(view, dtype, offset=start).reshape(shape, order="F" if fortran else "C")


def _header(view: memoryview) -> tuple[np.dtype, bool, tuple[int, ...], int]:
    """dtype, whether columns come first, shape, and where the values begin."""
    head = view[: LONGEST_HEADER + 12].tobytes()
    length = LENGTHS.get(head[6:8])
    if not head.startswith(MAGIC) or length is None or len(head) < 8 + length.size:
        raise BadSample("bad_array", "not a plain .npy file")
    start = 8 + length.size + length.unpack_from(head, 8)[0]
    found = HEADER.fullmatch(head[8 + length.size : start]) if start <= len(head) else None
    if found is None or None in (values := found.groups()) or not SHAPE.fullmatch(values[2]):
        raise BadSample("bad_array", "damaged .npy header")
    kind = values[0].decode()
    if not re.fullmatch(r".S[1-9]\d{0,3}", kind) and kind[1:] not in NUMBERS:
        raise BadSample("bad_array", f"dtype {kind}, only real numbers of at most 8 bytes are read")
    shape = tuple(int(size.strip(b" L")) for size in values[2].split(b",") if size.strip())
    return np.dtype(kind), values[1] == b"True", shape, start
