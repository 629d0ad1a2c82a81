"""Numbers from parquet files, read by pyarrow, which is no dependency."""

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np


def read_parquet(path: Path, columns: list[str] | None) -> tuple[np.ndarray, list[str]]:
    """float64 [N, D] of the named columns (all when none are named), and their names; ValueError in one line."""
    with opened(path) as file:
        titles = require_titles(path, columns or titles_of_schema(file), titles_of_schema(file))
        cells: dict[str, list[Any]] = {title: [] for title in titles}
        for batch in file.iter_batches(columns=titles):
            for title in titles:
                cells[title] += batch.column(title).to_pylist()
    for title, column in cells.items():
        odd = [cell for cell in column if type(cell) not in (int, float) or not np.isfinite(float(cell))]
        if odd:
            raise ValueError(f"{path}: column {title} holds {odd[0]!r:.40}, not a number; leave such rows out")
    if not cells[titles[0]]:
        raise ValueError(f"{path}: no rows")
    return np.array([cells[title] for title in titles], dtype=np.float64).T, titles


def parquet_titles(path: Path) -> list[str]:
    """The names of the columns; ValueError in one line."""
    with opened(path) as file:
        return titles_of_schema(file)


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A ParquetFile; what is wrong with it, while it is read too, is a ValueError in one line."""
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ValueError(f"{path}: reading parquet needs pyarrow; `pip install pyarrow`, or write a .csv") from error
    try:
        with ParquetFile(path) as file:
            yield file
    except (OSError, ArrowException) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path}: not a readable parquet file ({reason})") from error


def titles_of_schema(file: Any) -> list[str]:
    found = list(file.schema_arrow.names)
    if twice := [name for name in found if found.count(name) > 1]:
        raise ValueError(f"two columns are named {twice[0]!r}; rename one")
    return found


def require_titles(path: Path, titles: list[str], found: list[str]) -> list[str]:
    """The titles; ValueError in one line for one that the table has not."""
    for title in titles:
        if title not in found or not title:
            near = difflib.get_close_matches(title, found, n=1)
            hint = f"; nearest: {near[0]}" if near else ""
            raise ValueError(f"{path}: no column {title!r}, only {', '.join(found)}{hint}")
    return titles
