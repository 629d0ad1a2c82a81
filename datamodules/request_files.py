"""What a user wants to be made of which pictures: single requests, and lists of them in JSONL, CSV or text files."""

import csv
import difflib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fewstep.file_names import distinct, safe_name

FIELDS = ("image", "source", "target", "mask", "key")


@dataclass(frozen=True)
class Request:
    """One picture to be made. image: file to start from, None to generate; mask: file, white where it may change.

    source: prompt of the image, or of what is generated; target: prompt of the edited one, None to reconstruct.
    """

    source: str
    image: Path | None = None
    target: str | None = None
    mask: Path | None = None
    key: str = ""


def read_requests(path: str | Path) -> list[Request]:
    """One request per line of a .jsonl file (objects) or per row of a .csv file (first row: names of FIELDS).

    `image` and `source` are needed; pictures are looked for from the folder of the file. ValueError in one line,
    with the number of the line, for what cannot be meant.
    """
    path = Path(path)
    rows = {".jsonl": _jsonl, ".csv": _csv}.get(path.suffix.lower())
    if rows is None:
        raise ValueError(f"requests={path}: give a .jsonl or .csv file, or `prompts` for one prompt per line")
    requests = [_request(row, path.parent, f"{path}, line {number}") for number, row in rows(path)]
    return _named(requests, path)


def read_prompts(path: str | Path) -> list[Request]:
    """One prompt per line to generate; empty lines are skipped. Keys begin with the number of the line."""
    lines = [(n, line.strip()) for n, line in enumerate(_text(Path(path)).splitlines(), 1) if line.strip()]
    digits = len(str(lines[-1][0])) if lines else 1
    requests = [Request(line, key=safe_name(f"{n:0{digits}d}-{line}"[:48])) for n, line in lines]
    return _named(requests, Path(path))


def single_request(**values: Any) -> list[Request]:
    """The request that the options image, source, target and mask make."""
    return _named([_request({k: v for k, v in values.items() if v is not None}, Path(), "the request")], Path())


def _request(row: Mapping[str, Any], folder: Path, where: str) -> Request:
    if unknown := [name for name in row if name not in FIELDS]:
        near = difflib.get_close_matches(str(unknown[0]), FIELDS, n=1)
        hint = f"; nearest field: {near[0]!r}" if near else f"; known are {', '.join(FIELDS)}"
        raise ValueError(f"{where}: unknown field {unknown[0]!r}{hint}")
    for name, value in row.items():
        if not isinstance(value, str):
            raise ValueError(f"{where}: {name} is {str(value)[:40]}; write text, in quotes")
        if not value.strip():
            raise ValueError(f"{where}: {name} is empty; write what it should be, or leave it out")
    for name in ("image", "source"):
        if name not in row:
            what = {"image": "the picture to edit", "source": "what the picture shows, in words"}[name]
            raise ValueError(f"{where}: {name} is missing; give {what}")
    files = {name: folder / row[name] for name in ("image", "mask") if name in row}
    for name, file in files.items():
        if not file.is_file():
            raise ValueError(f"{where}: {name} {file} does not exist" if not file.exists() else f"{file} is no file")
    target = row["target"].strip() if "target" in row else None
    return Request(row["source"].strip(), target=target, key=row.get("key", ""), **files)


def _named(requests: list[Request], path: Path) -> list[Request]:
    """With keys that are safe as file names and distinct; all with a target, or none."""
    if not requests:
        raise ValueError(f"{path} holds nothing; write at least one line")
    if len({request.target is None for request in requests}) > 1:
        raise ValueError(f"{path}: some requests have a target and some have none; split the file in two")
    names = [safe_name(request.key or (request.image.stem if request.image else "")) for request in requests]
    return [replace(request, key=key) for request, key in zip(requests, distinct(names), strict=True)]


def _jsonl(path: Path) -> list[tuple[int, dict[str, Any]]]:
    rows = []
    for number, line in enumerate(_text(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, line {number}: not JSON: {error}") from None
        if not isinstance(row, dict):
            raise ValueError(f'{path}, line {number}: write an object: {{"image": "cat.png", "source": ".."}}')
        rows.append((number, {name: value for name, value in row.items() if value is not None}))
    return rows


def _csv(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """Empty cells mean absent."""
    reader = csv.DictReader(io.StringIO(_text(path), newline=""), restkey="", restval="", strict=True)
    rows = []
    try:
        for row in reader:
            if "" in row:
                raise ValueError(f"{path}, line {reader.line_num}: more cells than names in row 1; quote commas")
            filled = {name: value for name, value in row.items() if value.strip()}
            rows.append((reader.line_num, filled))
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}") from None
    return [(number, row) for number, row in rows if row]


def _text(path: Path) -> str:
    if not path.is_file():
        raise ValueError(f"{path} does not exist" if not path.exists() else f"{path} is a folder; give a file")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from None
