from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from fewstep.files.contact_sheet import Sample, contact_sheet

COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


def plain(colour, size=(16, 16)):
    return Image.new("RGB", size, colour)


@pytest.mark.parametrize("columns", [1, 2, 3, 8])
def test_every_picture_is_shown_whole_and_enlarged_by_a_whole_factor(columns):
    page = np.asarray(contact_sheet([Sample(str(c), {"": plain(c)}) for c in COLOURS], columns, side=40))
    for colour in COLOURS:
        rows, left = np.nonzero((page == colour).all(2))
        assert len(rows) == 48 * 48 == (np.ptp(rows) + 1) * (np.ptp(left) + 1)


def test_rows_and_columns_are_read_like_text():
    page = np.asarray(contact_sheet([Sample("", {"": plain(c)}) for c in COLOURS], columns=2))
    (red, green, blue) = (np.argwhere((page == c).all(2)).min(0) for c in COLOURS)
    assert red[0] == green[0] < blue[0]
    assert red[1] == blue[1] < green[1]


def test_pictures_of_a_sample_stand_one_below_the_other_with_their_names():
    one = Sample("", dict(zip("abc", map(plain, COLOURS), strict=True)))
    page = np.asarray(contact_sheet([one, one]))
    (red, green, blue) = (np.argwhere((page == c).all(2)) for c in COLOURS)
    assert red.max(0)[0] < green.min(0)[0] <= green.max(0)[0] < blue.min(0)[0]
    assert (page[:, : red[:, 1].min()] != 255).any()  # the names, before the first column


@pytest.mark.parametrize(("size", "shown"), [((400, 100), (100, 25)), ((50, 100), (50, 100)), ((1, 300), (1, 100))])
def test_pictures_that_are_too_large_are_shrunk_in_proportion(size, shown):
    page = np.asarray(contact_sheet([Sample("", {"": plain((255, 0, 0), size)})], side=1, largest=100))
    assert (page == (255, 0, 0)).all(2).sum() == shown[0] * shown[1]


def test_pictures_of_different_sizes_have_one_factor():
    sizes = [(10, 20), (20, 10), (20, 20)]
    pictures = [plain(colour, size) for colour, size in zip(COLOURS, sizes, strict=True)]
    page = np.asarray(contact_sheet([Sample("", {"": picture}) for picture in pictures], side=60))
    assert [(page == c).all(2).sum() for c in COLOURS] == [9 * w * h for w, h in sizes]


@pytest.mark.parametrize("size", [(64, 32), (32, 64)])
def test_cells_have_the_shape_of_their_pictures(size):
    page = np.asarray(contact_sheet([Sample("", {"": plain(c, size)}) for c in COLOURS], side=60))
    corners = [np.argwhere((page == c).all(2)) for c in COLOURS]
    assert [tuple(np.ptp(c, axis=0) + 1) for c in corners] == [(2 * size[1], 2 * size[0])] * 3
    assert {b.min(0)[1] - a.min(0)[1] for a, b in pairwise(corners)} == {2 * size[0] + 8}


@pytest.mark.parametrize("caption", ["", "word " * 200, "漢字 and emoji 🎈\x00\n\t", "x" * 500])
@pytest.mark.parametrize("lines", [1, 3])
def test_any_caption_stays_below_its_picture(caption, lines):
    bare = contact_sheet([Sample("", {"": plain((255, 0, 0))})] * 3, 2, lines=lines)
    page = contact_sheet([Sample(caption, {"": plain((255, 0, 0))})] * 3, 2, lines=lines)
    assert page.size == bare.size
    assert ((np.asarray(page) == (255, 0, 0)).all(2) == (np.asarray(bare) == (255, 0, 0)).all(2)).all()


def test_a_note_has_a_line_of_its_own():
    without, with_note = (contact_sheet([Sample("words", {"": plain((255, 0, 0))}, note)]) for note in ("", "score 1"))
    assert with_note.height == without.height + 14
