"""What a user wants to be made of which pictures: single requests, and lists of them in JSONL, CSV or text files."""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datamodules.sample_pictures import IMAGE_SUFFIXES
from datamodules.text_tables import read_csv, read_json_lines
from fewstep.files.local_paths import local_path
from fewstep.files.names import distinct, safe_name
from fewstep.files.prompt_files import key_of_line
from fewstep.files.text_files import numbered_lines, read_text

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
    path = Path(local_path(str(path)))
    rows = {".jsonl": _jsonl, ".csv": _csv}.get(path.suffix.lower())
    if rows is None:
        raise ValueError(f"requests={path}: give a .jsonl or .csv file, or `prompts` for one prompt per line")
    requests = [_request(row, path.parent, f"{path}: line {number}") for number, row in rows(path)]
    return _named(requests, path)


def read_prompts(path: str | Path) -> list[Request]:
    """One prompt per line to generate; blank lines are skipped. Keys begin with the number of the line."""
    path = Path(local_path(str(path)))
    lines = list(numbered_lines(read_text(path)))
    digits = len(str(lines[-1][0])) if lines else 1
    requests = [Request(line, key=key_of_line(n, digits, line)) for n, line in lines]
    return _named(requests, Path(path))


def folder_requests(path: str | Path) -> list[Request]:
    """The pictures of a folder by name, without words. ValueError in one line for none."""
    folder = Path(local_path(str(path)))
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    found = [file for file in files if file.suffix.lower()[1:] in IMAGE_SUFFIXES and not file.name.startswith(".")]
    if not found:
        raise ValueError(f"folder={path}: holds no picture; give a folder of {', '.join(IMAGE_SUFFIXES)} files")
    return _named([Request("", file) for file in found], folder)


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
    files = {name: Path(local_path(str(folder / local_path(row[name])))) for name in ("image", "mask") if name in row}
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


def _jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """null means absent."""
    for number, row in read_json_lines(path, option=""):
        yield number, {name: value for name, value in row.items() if value is not None}


def _csv(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Empty cells mean absent, and so do empty rows."""
    for number, row in read_csv(path, option="").rows:
        if filled := {name: value for name, value in row.items() if value.strip()}:
            yield number, filled
