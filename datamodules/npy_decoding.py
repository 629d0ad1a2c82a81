"""Arrays from the bytes of a .npy file, by its header and raw numbers: nothing is ever unpickled."""

import io
import math

import numpy as np

from datamodules.bad_sample import BadSample

READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def decode_npy(content: bytes) -> np.ndarray:
    """A writable array of real numbers, native byte order, any shape; BadSample for everything else."""
    head = io.BytesIO(content[: 1 << 14])
    try:
        shape, fortran, dtype = READERS[np.lib.format.read_magic(head)](head)
    except (ValueError, KeyError) as error:
        raise BadSample("bad_array", "not a plain .npy file") from error
    if dtype.kind not in "fiu":
        raise BadSample("bad_array", f"dtype {dtype}, only real numbers are read")
    if head.tell() + dtype.itemsize * math.prod(shape) != len(content):  # before anything is allocated
        raise BadSample("bad_array", f"{len(content)} bytes do not hold an array of shape {shape}")
    values = np.frombuffer(content, dtype=dtype, offset=head.tell()).reshape(shape, order="F" if fortran else "C")
    return np.array(values, dtype=dtype.newbyteorder("="), order="C")
