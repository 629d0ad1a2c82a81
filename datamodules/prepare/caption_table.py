"""Captions of pictures from a .csv, .tsv, .jsonl or .parquet table: one row per picture and caption."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

IMAGE_COLUMNS = ("file_name", "image", "image_path", "path", "filename", "file", "image_file")
CAPTION_COLUMNS = ("caption", "captions", "text", "prompt", "description")


class CaptionTable:
    """Which captions belong to which picture; `unused()` says which named pictures nobody asked for.

    Several rows of one picture, or a list in one row, are several captions in their order.
    """

    def __init__(self, path: str, image_column: str | None = None, caption_column: str | None = None):
        rows = _rows(Path(path))
        first = next(rows, None)
        if first is None:
            raise ValueError(f"{path}: holds no rows")
        image = _column(path, first, image_column, IMAGE_COLUMNS, "--image-column")
        caption = _column(path, first, caption_column, CAPTION_COLUMNS, "--caption-column")
        self.captions: dict[str, list[str]] = {}
        self.used: set[str] = set()
        for row in (first, *rows):
            values = row.get(caption)
            values = values if isinstance(values, list) else [values]
            if name := str(row.get(image) or "").replace("\\", "/").removeprefix("./"):
                self.captions.setdefault(name, []).extend(value for value in values if isinstance(value, str))

    def of(self, names: list[str]) -> list[str] | None:
        """The captions of the picture that goes by these names, the first one that a row uses; None if none does."""
        for name in names:
            if name in self.captions:
                self.used.add(name)
                return self.captions[name]
        return None

    def unused(self) -> list[str]:
        return [name for name in self.captions if name not in self.used]


def _column(path: str, row: dict, asked: str | None, usual: tuple[str, ...], option: str) -> str:
    """The column asked for, or the first of the usual names, in any case."""
    if asked:
        if asked not in row:
            raise ValueError(f"{path}: no column {asked!r}; it has {', '.join(map(str, row))}")
        return asked
    by_lower = {str(name).strip().lower(): name for name in row}
    for name in usual:
        if name in by_lower:
            return by_lower[name]
    raise ValueError(f"{path}: no column {', '.join(usual)}; it has {', '.join(map(str, row))}; name one with {option}")


def _rows(path: Path) -> Iterator[dict]:
    """The rows as dicts; ValueError in one line for what cannot be read."""
    readers = {".csv": _csv, ".tsv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
    if path.suffix.lower() not in readers:
        raise ValueError(f"{path}: expected a table that ends in {', '.join(readers)}")
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        yield from readers[path.suffix.lower()](path)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from error


def _csv(path: Path) -> Iterator[dict]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        try:
            yield from csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
        except csv.Error as error:
            raise ValueError(f"{path}: {error}") from error


def _jsonl(path: Path) -> Iterator[dict]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path}: line {number} is not JSON ({error})") from error
            if not isinstance(row, dict):
                raise ValueError(f"{path}: line {number} holds a {type(row).__name__}, not an object")
            yield row


def _parquet(path: Path) -> Iterator[dict]:
    try:
        import pandas

        table = pandas.read_parquet(path, engine="pyarrow")
    except ImportError as error:
        raise ValueError(f"{path}: reading parquet needs pandas and pyarrow; `pip install pandas pyarrow`") from error
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: not a readable parquet file ({str(error).splitlines()[0]})") from error
    for row in table.to_dict("records"):
        yield {name: value.tolist() if hasattr(value, "tolist") else value for name, value in row.items()}
