"""A page of small pictures, each with its caption."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

MARGIN, TEXT, GAP = 8, 11, 2  # pixels: around a sample, height of the letters, between its pictures
INK, GREY, PAPER = "#333333", "#777777", "#ffffff"


@dataclass(frozen=True)
class Sample:
    """What a page shows of a sample: pictures by name, from top to bottom; under the caption a `note` in grey."""

    caption: str
    pictures: Mapping[str, Image.Image]
    note: str = ""


def contact_sheet(
    samples: Sequence[Sample], columns: int = 8, side: int = 112, lines: int = 3, largest: int | None = None
) -> Image.Image:
    """The samples, at least one, in rows of `columns`; all have pictures of the same names.

    Small pictures are enlarged by one whole factor, until the shorter side of the largest has `side` pixels. Pictures
    with a side longer than `largest` are shrunk to it before. lines: of a caption, at most.
    """
    shown = [[_shrunk(picture, largest) for picture in sample.pictures.values()] for sample in samples]
    width, height = (max(picture.size[i] for pictures in shown for picture in pictures) for i in (0, 1))
    factor = max(1, -(-side // min(width, height)))
    width, height = width * factor, height * factor
    font, small = _font(TEXT), _font(TEXT - 2)
    names = list(samples[0].pictures)
    labels = max(int(small.getlength(name)) for name in names) + MARGIN if len(names) > 1 else 0
    lines_below = lines + any(sample.note for sample in samples)
    cell = width + MARGIN, len(names) * (height + GAP) + lines_below * (TEXT + 3) + 2 * MARGIN
    columns = min(columns, len(samples))
    page = Image.new(
        "RGB", (labels + columns * cell[0] + MARGIN, -(-len(samples) // columns) * cell[1] + MARGIN), PAPER
    )
    pen = ImageDraw.Draw(page)
    for number, (sample, pictures) in enumerate(zip(samples, shown, strict=True)):
        row, column = divmod(number, columns)
        left, top = labels + MARGIN + column * cell[0], MARGIN + row * cell[1]
        for name, picture in zip(names, pictures, strict=True):
            if labels and column == 0:
                pen.text((MARGIN // 2, top + height // 2), name, GREY, small, anchor="lm")
            whole = picture.width * factor, picture.height * factor
            page.paste(picture.resize(whole, Image.Resampling.NEAREST), (left, top))
            top += height + GAP
        for line in _wrapped(sample.caption, font, width, lines):
            pen.text((left, top), line, INK, font)
            top += TEXT + 3
        pen.text((left, top), sample.note, GREY, small)
    return page


def _shrunk(picture: Image.Image, largest: int | None) -> Image.Image:
    if largest is None or max(picture.size) <= largest:
        return picture
    scale = largest / max(picture.size)
    return picture.resize([max(1, round(side * scale)) for side in picture.size], Image.Resampling.LANCZOS)


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int, lines: int) -> list[str]:
    """At most `lines` lines that fit; the last one ends in an ellipsis where something was left out."""
    characters = max(int(width / font.getlength("n")), 8)
    printable = "".join(c if c.isprintable() else " " for c in text)
    return textwrap.wrap(printable, characters, max_lines=lines, placeholder=" …")


def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings along: PIL's own font knows Latin letters only."""
    import matplotlib as mpl

    return ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)
