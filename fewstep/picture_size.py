"""The size of pictures as users give it, and what of a picture of another shape has that size.

A size is a whole number, the edge of a square, or [height, width], in the order of diffusers and torchvision. Files and
hyper-parameters hold squares as the one number.
"""

import argparse
import re
from typing import Any

from fewstep.one_line import one_line

Size = int | tuple[int, int]
MOST_EDGE = 1 << 16  # in pixels; of PNG, JPEG and WebP only a PNG can be larger


def height_and_width(size: Any, name: str = "image_size") -> tuple[int, int]:
    """(height, width) of a size that a user or a file gives; ValueError in one line, with this name, for what is none.

    Lists are sizes as well as tuples, since YAML and JSON know no others.
    """
    edges = size if isinstance(size, list | tuple) else (size, size)
    if len(edges) != 2 or not all(type(edge) is int and 1 <= edge <= MOST_EDGE for edge in edges):
        given = one_line(repr(size), 60)
        told = f"give one whole number from 1, for a square, or [height, width], none above {MOST_EDGE:,}"
        raise ValueError(f"{name}={given}: {told}")
    return edges[0], edges[1]


def as_stored(size: Size, name: str = "image_size") -> int | list[int]:
    """The number of a square, else [height, width]; ValueError as `height_and_width`."""
    height, width = height_and_width(size, name)
    return height if height == width else [height, width]


def as_text(size: Size) -> str:
    """Such as "64", or "64 x 128 (height x width)"."""
    height, width = height_and_width(size)
    return str(height) if height == width else f"{height} x {width} (height x width)"


def size_argument(text: str) -> Size:
    """The type of an option --size of argparse: 64, or 64x128 for height x width."""
    found = re.fullmatch(r"(\d{1,9})(?:x(\d{1,9}))?", text.strip())
    try:
        edges = [int(edge) for edge in found.groups() if edge] if found else [0]
        return height_and_width(tuple(edges * 2 if len(edges) == 1 else edges))
    except ValueError:
        told = f"{one_line(text, 40)!r}: give the edge of a square, or HEIGHTxWIDTH such as 64x128, from 1 on"
        raise argparse.ArgumentTypeError(told) from None


def largest_part(height: int, width: int, shape: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of the largest part of a picture that has the aspect ratio of `shape`, to the nearest pixel."""
    if height * shape[1] >= width * shape[0]:
        return max(1, round(width * shape[0] / shape[1])), width
    return height, max(1, round(height * shape[1] / shape[0]))


def whole_within(height: int, width: int, shape: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a whole picture, made as large as `shape` allows."""
    if height * shape[1] >= width * shape[0]:
        return shape[0], max(1, round(width * shape[0] / height))
    return max(1, round(height * shape[1] / width)), shape[1]
