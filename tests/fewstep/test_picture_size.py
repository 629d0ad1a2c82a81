"""Sizes as users write them, and the parts of pictures that have their shape: against a search over all parts."""

import argparse
import random

import pytest

from fewstep.picture_size import as_stored, as_text, height_and_width, largest_part, size_argument, whole_within


def test_one_number_is_a_square_and_two_are_height_and_width():
    assert height_and_width(64) == (64, 64)
    assert height_and_width((64, 128)) == height_and_width([64, 128]) == (64, 128)
    assert [as_stored(size) for size in (64, (64, 64), (64, 128), [128, 64])] == [64, 64, [64, 128], [128, 64]]
    assert [as_text(size) for size in ([64, 64], (64, 128))] == ["64", "64 x 128 (height x width)"]


@pytest.mark.parametrize(
    "size",
    [
        0,
        -1,
        True,
        64.0,
        "64",
        None,
        (),
        (64,),
        (64, 128, 3),
        (64, 0),
        (64, 128.0),
        (False, 8),
        [[8, 8]],
        65537,
        [64, 10**9],
    ],
)
def test_anything_else_is_one_line_that_names_it(size):
    with pytest.raises(
        ValueError, match=r"^data\.size=.*: give one whole number from 1, for a square, or \[h"
    ) as error:
        height_and_width(size, "data.size")
    assert repr(size) in str(error.value)
    assert "\n" not in str(error.value)


def test_the_option_of_a_command():
    assert [height_and_width(size_argument(text)) for text in ("64", "64x128", " 8x4 ")] == [
        (64, 64),
        (64, 128),
        (8, 4),
    ]
    for text in ("", "0", "64x", "x64", "64x0", "-64", "64.0", "64x128x3", "64 x 128", "[64, 128]", "8\n8"):
        with pytest.raises(argparse.ArgumentTypeError, match="give the edge of a square, or HEIGHTxWIDTH") as error:
            size_argument(text)
        assert "\n" not in str(error.value)


def drawn(count):
    rng = random.Random(0)
    for _ in range(count):
        yield (rng.randint(1, 300), rng.randint(1, 300)), (rng.randint(1, 40), rng.randint(1, 40))


def test_the_largest_part_is_the_largest():
    """One edge is the picture's own; of all lengths of the other the one that comes nearest to the shape."""
    for (height, width), shape in drawn(500):
        h, w = largest_part(height, width, shape)
        columns = min(range(1, width + 1), key=lambda n, h=height, s=shape: abs(n * s[0] - h * s[1]))
        rows = min(range(1, height + 1), key=lambda n, w=width, s=shape: abs(n * s[1] - w * s[0]))
        wide = height * shape[1] <= width * shape[0]  # wider than the shape: its whole height is taken
        exact = abs(columns * shape[0] - height * shape[1]) if wide else abs(rows * shape[1] - width * shape[0])
        assert (h == height) if wide else (w == width)
        assert 1 <= h <= height
        assert 1 <= w <= width
        assert abs(h * shape[1] - w * shape[0]) == exact


def test_a_whole_picture_touches_two_edges_and_keeps_its_shape():
    for (height, width), shape in drawn(500):
        h, w = whole_within(height, width, shape)
        assert h == shape[0] or w == shape[1]
        assert 1 <= h <= shape[0]
        assert 1 <= w <= shape[1]
        scale = min(shape[0] / height, shape[1] / width)
        assert abs(h - max(1, height * scale)) <= 0.5001
        assert abs(w - max(1, width * scale)) <= 0.5001


def test_a_picture_of_the_shape_is_taken_whole():
    for scale in (1, 3, 7):
        assert largest_part(5 * scale, 9 * scale, (5, 9)) == (5 * scale, 9 * scale)
        assert whole_within(5 * scale, 9 * scale, (5, 9)) == (5, 9)
