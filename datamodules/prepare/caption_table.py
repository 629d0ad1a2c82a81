"""Captions of pictures from a .csv, .tsv, .jsonl or .parquet table: one row per picture and caption."""

import difflib
import math
import unicodedata
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from datamodules.prepare.folder_listing import names_of
from datamodules.text_tables import read_csv, read_json_lines
from fewstep.one_line import one_line

IMAGE_COLUMNS = ("file_name", "image", "image_path", "path", "filename", "file", "image_file")
CAPTION_COLUMNS = ("caption", "captions", "text", "prompt", "description")
FORMS = (".csv", ".tsv", ".jsonl", ".parquet")
EXACT = 2**53  # above, neighbouring whole numbers are one float


class CaptionTable:
    """Which captions belong to which picture; `told` says which rows nobody asked for, or came to nothing.

    Several rows of one picture, or a list in one row, are several captions in their order. Pictures may be called by
    whole numbers; names are compared in the normal form NFC, or as they are spelt (`spelt_as`).
    """

    def __init__(
        self,
        path: str,
        image_column: str | None = None,
        caption_column: str | None = None,
        encoding: str | None = None,
    ):
        self.path = path
        rows = ((number, row) for number, row in _rows(Path(path), encoding) if row)
        first = next(rows, None)
        if first is None:
            raise ValueError(f"{path}: holds no rows")
        image = _column(path, first[1], image_column, IMAGE_COLUMNS, "--image-column")
        caption = _column(path, first[1], caption_column, CAPTION_COLUMNS, "--caption-column")
        self.captions: dict[str, list[str]] = {}  # by composed name
        self.spelt: dict[str, list[str]] = {}
        self.used: set[str] = set()  # names, composed or as spelt
        self.nameless: list[int] = []
        self.wordless: list[int] = []
        self.foreign: list[tuple[int, Any]] = []  # what stands among the texts of a list and is none
        for number, row in (first, *rows):
            name, (captions, others) = _name(row.get(image), f"{path}: line {number}"), _captions(row.get(caption))
            if not name:
                self.nameless.append(number)
                continue
            if not any(map(str.strip, captions)):
                self.wordless.append(number)
            self.foreign += [(number, other) for other in others]
            self.captions.setdefault(_composed(name), []).extend(captions)
            self.spelt.setdefault(name, []).extend(captions)

    def of(self, names: list[str]) -> list[str] | None:
        """The captions of the picture that goes by these names, from all rows that use one; None if none does."""
        found = [name for name in names if name in self.captions]
        self.used.update(found)
        return [caption for name in found for caption in self.captions[name]] if found else None

    def spelt_as(self, name: str) -> list[str] | None:
        """The captions of the rows that call a picture by this very name, in this normal form."""
        self.used.add(name)
        return self.spelt.get(name)

    def told(self, images: Path) -> list[str]:
        """What rows of the table came to nothing, a line for each kind; to be asked when all pictures have been."""
        unused = [name for name in self.spelt if self.used.isdisjoint((name, _composed(name)))]
        told = []
        if unused:
            are = f"{len(unused)} pictures of the table are not below {images}, or several go by their name"
            told.append(f"{self.path}: {are}, such as {unused[0]!a}")
        for numbers, lacking in ((self.nameless, "name no picture"), (self.wordless, "hold no caption")):
            if numbers:
                told.append(f"{self.path}: {len(numbers)} rows {lacking}, such as row or line {numbers[0]}")
        if self.foreign:
            (number, first), many = self.foreign[0], len(self.foreign)
            example = f"such as {one_line(ascii(first), 60)} in row or line {number}"
            told.append(f"{self.path}: {many} entries in lists of captions are no texts and left out, {example}")
        return told


def captions_by_name(table: CaptionTable, found: list[str]) -> dict[str, list[str]]:
    """{picture: captions}, of the rows that call it by a name that no other picture has, or by its own path.

    Where paths differ in their normal form alone, only rows count that spell one as it is.
    """
    names = {name: names_of(name) for name in found}
    owners = Counter(own for own, *_ in names.values())
    shared = Counter(other for others in names.values() for other in others)
    captions = {}
    for name, (own, *others) in names.items():
        asked = [own, *(other for other in others if shared[other] == 1)]
        if (texts := table.spelt_as(name) if owners[own] > 1 else table.of(asked)) is not None:
            captions[name] = texts
    return captions


def _name(value: Any, where: str) -> str:
    """What a row calls its picture; "" for nothing and for what is no name."""
    if isinstance(value, float) and EXACT <= abs(value) < math.inf:
        raise ValueError(f"{where} calls its picture {value!r}, which was rounded; write such numbers as text")
    return (_text(value) or "").replace("\\", "/").removeprefix("./")


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _captions(value: Any) -> tuple[list[str], list[Any]]:
    """The texts in a cell, and what else stands beside them if it holds a list."""
    entries = value if isinstance(value, list) else [value]
    texts = [text for entry in entries if (text := _text(entry)) is not None]
    return texts, [entry for entry in entries if _text(entry) is None] if isinstance(value, list) else []


def _text(value: Any) -> str | None:
    """Text, or a number written out as in a .csv; None for nothing, NaN and what is neither."""
    if isinstance(value, bytes):  # how some writers store text in parquet
        return value.decode("utf-8", "replace")
    if isinstance(value, Decimal):
        return str(int(value) if value == value.to_integral_value() else value) if value.is_finite() else None
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        value = int(value) if value.is_integer() else value  # pandas makes whole numbers floats where one is missing
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else None


def _column(path: str, row: dict, asked: str | None, usual: tuple[str, ...], option: str) -> str:
    """The column asked for, or the first of the usual names, in any case."""
    known = ", ".join(str(name) for name in row if name)
    if asked:
        if asked not in row:
            near = difflib.get_close_matches(asked, [str(name) for name in row], n=1)
            raise ValueError(f"{path}: no column {asked!r}; it has {known}{f'; nearest: {near[0]}' if near else ''}")
        return asked
    by_lower = {str(name).strip().lower(): name for name in reversed(row)}
    for name in usual:
        if name in by_lower:
            return by_lower[name]
    raise ValueError(f"{path}: no column {', '.join(usual)}; it has {known}; name one with {option}")


def _rows(path: Path, encoding: str | None) -> Iterator[tuple[int, dict]]:
    """(number of the line or row, row as a dict); ValueError in one line for what cannot be read."""
    suffix = path.suffix.lower()
    if suffix not in FORMS:
        hint = "; export the sheet as CSV in UTF-8" if suffix in (".xlsx", ".xls", ".ods") else ""
        raise ValueError(f"{path}: expected a table that ends in {', '.join(FORMS)}{hint}")
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    if suffix == ".parquet":
        return _parquet(path)
    return read_json_lines(path, encoding) if suffix == ".jsonl" else read_csv(path, encoding).rows


def _parquet(path: Path) -> Iterator[tuple[int, dict]]:
    """By pyarrow, whose whole numbers stay whole beside empty cells."""
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ValueError(f"{path}: reading parquet needs pyarrow; `pip install pyarrow`") from error
    try:
        with ParquetFile(path) as file:
            names = file.schema_arrow.names
            if twice := [name for name in names if names.count(name) > 1]:
                raise ValueError(f"two columns are named {twice[0]!r}; rename one")
            rows = (row for batch in file.iter_batches() for row in batch.to_pylist())
            yield from enumerate(rows, 1)
    except (ValueError, OSError, ArrowException) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path}: not a readable parquet file ({reason})") from error
