"""Numbers from .npy, .csv, .tsv and .parquet files: each in its column, or one line that says what is wrong."""

import math
import re
from pathlib import Path

import numpy as np

from datamodules.bad_sample import BadSample
from datamodules.npy_decoding import decode_npy
from datamodules.parquet_tables import parquet_titles, read_parquet, require_titles
from datamodules.text_tables import read_csv

NAMED = (".csv", ".tsv", ".parquet")  # whose columns have names
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def read_table(
    path: Path, columns: list[str] | None, encoding: str | None = None, decimal_comma: bool = False
) -> tuple[np.ndarray, list[str] | None]:
    """[N, D] of a .npy file or of the named columns of another (all when none are named), and their names.

    Parquet is read by pyarrow, where it is installed. Floats as precise as they are stored, whole numbers in float64.
    ValueError in one line.
    """
    if not path.is_file():
        raise ValueError(f"no file {path}")
    suffix = path.suffix.lower()
    if suffix not in (".npy", *NAMED):
        hint = {".npz": "save one array of it with numpy.save", ".xlsx": "export the sheet as CSV in UTF-8"}.get(suffix)
        raise ValueError(f"{path}: expected .npy, .csv, .tsv or .parquet{f'; {hint}' if hint else ''}")
    if columns and (twice := [name for name in columns if columns.count(name) > 1]):
        raise ValueError(f"column {twice[0]!r} is named twice")
    if suffix in (".csv", ".tsv"):
        return read_numbers(path, columns, encoding, decimal_comma)
    table, columns = read_parquet(path, columns) if suffix == ".parquet" else (read_npy(path), columns)
    if columns and len(columns) != table.shape[1]:
        raise ValueError(f"{path}: {table.shape[1]} columns, but {len(columns)} names ({', '.join(columns)})")
    bad = np.argwhere(~np.isfinite(table))
    if len(bad):
        row, column = bad[0]
        raise ValueError(f"{path}: row {row + 1}, column {column + 1} is {table[row, column]}; leave such rows out")
    return table if table.dtype.kind == "f" else table.astype(np.float64), columns


def titles_of(path: Path, encoding: str | None = None) -> list[str] | None:
    """The names of a table's columns; None for a .npy file, which has none."""
    suffix = path.suffix.lower()
    if suffix not in NAMED or not path.is_file():
        return None
    return parquet_titles(path) if suffix == ".parquet" else read_csv(path, encoding).titles


def read_npy(path: Path) -> np.ndarray:
    """[N, D] of real numbers."""
    try:
        table = decode_npy(path.read_bytes())
    except BadSample as error:
        raise ValueError(
            f"{path}: not a plain .npy array of numbers ({error.detail}); save it with numpy.save"
        ) from None
    if table.ndim not in (1, 2) or not table.size:
        raise ValueError(f"{path}: {table.dtype} of shape {table.shape}; expected numbers of shape [rows, columns]")
    return table if table.ndim == 2 else table[:, None]


def read_numbers(
    path: Path, columns: list[str] | None, encoding: str | None, decimal_comma: bool
) -> tuple[np.ndarray, list[str]]:
    """The named columns of a text table with a header line, and their names."""
    found, rows = read_csv(path, encoding)
    if not any(found):
        raise ValueError(f"{path} is empty; its first line must hold the names of the columns")
    titles = require_titles(path, columns or found, found)
    if found and all(NUMBER.fullmatch(title) for title in found if title):
        raise ValueError(f"{path}: the first line holds numbers; write the names of the columns there")
    table, blank = [], 0
    for line, row in rows:
        if not row:
            blank = blank or line
            continue
        if blank:
            raise ValueError(f"{path}: line {blank} is blank; remove it, or the rows of two files may not fit together")
        table.append([number(path, row[title], line, title, decimal_comma) for title in titles])
    if not table:
        raise ValueError(f"{path}: no rows")
    return np.array(table), titles


def number(path: Path, cell: str, line: int, title: str, decimal_comma: bool) -> float:
    """A finite number as programs write it; no separators of thousands, no other digits than 0 to 9."""
    text = cell.strip()
    if decimal_comma and "." not in text:
        text = text.replace(",", ".", 1)
    if not NUMBER.fullmatch(text):
        hint = ""
        if NUMBER.fullmatch(text.replace(",", "").replace(".", "").replace(" ", "")):
            hint = "; write 1234.5, or give --decimal-comma for 1234,5"
        raise ValueError(f"{path}: line {line}, column {title} is {cell[:40]!r}, not a number{hint}")
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{path}: line {line}, column {title} is {cell[:40]!r}, beyond float64")
    return value
