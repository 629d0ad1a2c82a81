"""Rows of tables that users write, as CSV or JSON lines; what is ambiguous is refused in one line, never guessed."""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from fewstep.files.plain_json import whole_number
from fewstep.files.text_files import numbered_lines, read_text

OPTION = "--encoding"
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
NAMED_SEPARATOR = re.compile(r"sep=(.)\r?\n")  # a first line that Excel writes and reads


class Table(NamedTuple):
    """titles: names of the columns, "" where one has none. rows: (number of the last line, cells), {} if blank."""

    titles: list[str]
    rows: Iterator[tuple[int, dict[str, str]]]


def read_csv(path: str | Path, encoding: str | None = None, option: str = OPTION) -> Table:
    """A .tsv, or a .csv with the separator that its header has: commas, else semicolons, tabs or bars.

    ValueError in one line, while the rows are read too: a row with more or fewer cells than the header, a title twice,
    quotes that do not close, an encoding that is not the one asked for.
    """
    text = read_text(path, encoding, option)
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # the whole text is in memory already
    separator, text = _separator(Path(path), text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    cells = _cells(path, reader)
    _, first = next(((number, row) for number, row in cells if any(row)), (0, []))
    titles = [title.strip() for title in first]
    if twice := [title for title, count in Counter(titles).items() if title and count > 1]:
        raise ValueError(f"{path}: two columns are named {twice[0]!r}; rename one")
    return Table(titles, _rows(path, titles, cells, SEPARATORS[separator]))


def _separator(path: Path, text: str) -> tuple[str, str]:
    """(separator, text without a line that names it)."""
    if named := NAMED_SEPARATOR.match(text):
        if named[1] not in SEPARATORS:
            raise ValueError(f"{path}: separator {named[1]!r}; use {', '.join(SEPARATORS.values())}")
        return named[1], "\n" + text[named.end() :]  # lines keep their numbers
    if path.suffix.lower() == ".tsv":
        return "\t", text
    header = next((line for _, line in numbered_lines(text)), "")
    for separator in SEPARATORS:
        try:
            if len(next(csv.reader([header], delimiter=separator, skipinitialspace=True), [])) > 1:
                return separator, text
        except csv.Error:
            continue
    return ",", text


def _cells(path: str | Path, reader: Any) -> Iterator[tuple[int, list[str]]]:
    while True:
        begun = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(
                f"{path}: line {begun}: {error}; are all quotes closed, and those inside doubled?"
            ) from None
        yield reader.line_num, row if any(cell.strip() for cell in row) else []


def _rows(
    path: str | Path, titles: list[str], cells: Iterator[tuple[int, list[str]]], separators: str
) -> Iterator[tuple[int, dict[str, str]]]:
    for number, row in cells:
        if row and len(row) != len(titles):
            raise ValueError(
                f"{path}: line {number} has {len(row)} cells, the header has {len(titles)}; quote cells that hold "
                f"{separators} or line ends, and leave empty cells for what is absent"
            )
        yield number, dict(zip(titles, row, strict=False))


def read_json_lines(path: str | Path, encoding: str | None = None, option: str = OPTION) -> Iterator[tuple[int, dict]]:
    """(number of the line, object) of each line that is not blank; ValueError in one line for anything else in it."""
    for number, line in numbered_lines(read_text(path, encoding, option)):
        try:
            odd = {"parse_constant": lambda _: None, "parse_int": whole_number}  # NaN means absent
            row = json.loads(line, object_pairs_hook=_object, **odd)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: line {number} is not JSON: {str(error)[:120]}") from None
        if not isinstance(row, dict):
            raise ValueError(f'{path}: line {number} holds a {type(row).__name__}; write an object: {{"name": ..}}')
        yield number, row


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if twice := [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]:
        raise ValueError(f"{twice[0]!r} stands twice in one object")
    return dict(pairs)
