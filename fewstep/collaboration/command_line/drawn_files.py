"""A folder of pictures that grows, and what is told of each; processes that were killed go on in it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fewstep.files.durable import replace_file, write_synced
from fewstep.files.names import safe_name
from fewstep.files.plain_json import parse_json, read_json
from fewstep.files.plain_reader import fields, number, shown, text
from fewstep.files.prompt_files import Prompt

ABOUT, ROWS, PARTS = "draw.json", "samples.jsonl", "samples.*.jsonl"
DRAFTS = "drafts"  # the folder of those that were repaired
ENDED = "ended"  # in ABOUT, of the pictures that a draw has brought to its end


def _name(value: Any, name: str) -> None:
    text(value, name)
    if value != safe_name(value):
        raise ValueError(f"{name} is {shown(value)}, which names no file")


NUMBERS = dict.fromkeys(("draft_score", "passes", "seconds"), number)
ROW = fields({"key": _name, "prompt": text, "attributes": lambda value, name: None, "route": text, **NUMBERS})


class DrawnFiles:
    """OUT/KEY.png, and a line of OUT/samples.jsonl once that picture is there. done: {key: its line}.

    OUT/drafts/KEY.png is the draft that a repaired picture came from.

    about: what the pictures are of; a folder with pictures of something else is refused in one line, and so is one that
    no `draw` has begun, unless overwrite, which begins anew but deletes nothing else. rank: of several processes the
    first begins; the others only add, each to a part of its own, OUT/samples.RANK.jsonl, until the first gathers them.
    """

    def __init__(self, out: Path, about: Mapping[str, Any], overwrite: bool = False, rank: int = 0) -> None:
        self.out, self.done = out, dict[str, dict[str, Any]]()
        self._rows = out / (PARTS.replace("*", str(rank)) if rank else ROWS)
        if rank:
            return
        told = json.loads(json.dumps(dict(about)))
        if out.exists() and not out.is_dir():
            raise ValueError(f"--out {out} is no folder")
        begun = (out / ABOUT).is_file()
        if begun and not overwrite:
            self._go_on(told)
            return
        if out.exists() and any(out.iterdir()) and not overwrite:
            raise ValueError(f"--out {out} holds something else; name another folder, or give --overwrite")
        out.mkdir(parents=True, exist_ok=True)
        for file in (out / ROWS, *out.glob(PARTS)):
            file.unlink(missing_ok=True)
        self._tell(told)

    def _tell(self, about: Mapping[str, Any]) -> None:
        replace_file(self.out / ABOUT, (json.dumps(about, indent=1) + "\n").encode())

    def _go_on(self, told: Mapping[str, Any]) -> None:
        stored = _about(self.out)
        for name, value in told.items():
            if stored.get(name) != value:
                raise ValueError(
                    f"--out {self.out} has pictures of {name} {stored.get(name)}, these are of {value}; name another "
                    "folder, or give --overwrite"
                )
        if stored.pop(ENDED, None) is not None:
            self._tell(stored)
        self.gather()

    def gather(self, order: Sequence[str] = ()) -> None:
        """The lines of all parts, as `done` and in one file: those of the keys in `order` as it has them, after others.

        Only while no other process adds. order: all keys that were to be drawn, which ends the draw: read_drawn takes
        a folder for whole that has these and no others.
        """
        parts = sorted(self.out.glob(PARTS))
        lines = dict[str, bytes]()
        for file in (self.out / ROWS, *parts):
            for row, line in _lines(file):
                if (self.out / f"{row['key']}.png").is_file():
                    self.done[row["key"]], lines[row["key"]] = row, line
        places = {key: place for place, key in enumerate(order)}
        content = b"".join(lines[key] for key in sorted(lines, key=lambda key: places.get(key, -1)))
        if content != ((self.out / ROWS).read_bytes() if (self.out / ROWS).is_file() else b""):
            replace_file(self.out / ROWS, content)
        for part in parts:
            part.unlink()
        if order:
            self._tell({**_about(self.out), ENDED: _ended(order)})

    def check(self, asked: Mapping[str, tuple[str, Any, Mapping[str, str]]]) -> None:
        """ValueError in one line where a picture that is there was drawn for another (prompt, attributes, pictures).

        pictures: the hashes of those that were given with the prompt, "source" and "control".
        """
        for key, row in self.done.items():
            given = {name: row[name] for name in ("source", "control") if name in row}
            if key in asked and (row["prompt"], row["attributes"], given) != asked[key]:
                raise ValueError(
                    f"--out {self.out} has {key}.png of {row['prompt'][:60]!r}, which is asked for otherwise now; name "
                    "another folder, or give --overwrite"
                )

    def add(
        self, rows: Sequence[dict[str, Any]], pictures: Sequence[bytes], drafts: Mapping[str, bytes] | None = None
    ) -> None:
        """Pictures first, then all their lines at once; drafts: by key, of repaired ones.

        ValueError in one line for a row that cannot be read again.
        """
        lines = "".join(map(_line, rows))
        for key, content in (drafts or {}).items():
            (self.out / DRAFTS).mkdir(exist_ok=True)
            write_synced(self.out / DRAFTS / f"{key}.png", content)
        for row, content in zip(rows, pictures, strict=True):
            write_synced(self.out / f"{row['key']}.png", content)
        with self._rows.open("ab") as file:
            file.write(lines.encode())
        self.done |= {row["key"]: row for row in rows}


def read_drawn(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(what the pictures of a folder are of, the lines of samples.jsonl). ValueError in one line unless it is whole."""
    about, parts = _about(folder), sorted(folder.glob(PARTS))
    rows = [row for row, _ in _lines(folder / ROWS)]
    lacking = [row["key"] for row in rows if not (folder / f"{row['key']}.png").is_file()]
    ended = about.pop(ENDED, None)
    if parts or lacking or not rows or ended is None:
        told = f"{parts[0].name} is a part" if parts else f"there is no {lacking[0]}.png" if lacking else "it is empty"
        if rows and not parts and not lacking:
            told = f"{len(rows)} pictures of a draw that was stopped"
        raise ValueError(f"{folder} is not drawn to its end ({told}); the same `draw` command ends it")
    if ended != _ended([row["key"] for row in rows]):
        raise ValueError(
            f"{folder} has {len(rows)} pictures, which are not those of its last `draw`; give that the same prompts "
            "again, in a folder of its own if others were drawn into this one"
        )
    return about, rows


def draft_files(folder: Path, rows: Sequence[Mapping[str, Any]]) -> dict[str, Path] | None:
    """The best draft of every picture of a folder, by key; None where older draws have not kept them."""
    files = {row["key"]: folder / ("" if row["route"] == "keep" else DRAFTS) / f"{row['key']}.png" for row in rows}
    return files if all(file.is_file() for file in files.values()) else None


def check_told(prompts: Sequence[Prompt]) -> None:
    """ValueError in one line for a prompt whose line of samples.jsonl could not be read again."""
    for prompt in prompts:
        row = {"key": prompt.key, "prompt": prompt.text, "attributes": prompt.attributes, "route": "keep"}
        _line(row | dict.fromkeys(NUMBERS, 0.0))


def _line(row: Mapping[str, Any]) -> str:
    try:
        line = json.dumps(row, allow_nan=False)
        ROW(parse_json(line), "")
    except (ValueError, RecursionError) as error:
        told = f"{shown(row['key'])} cannot be told of in {ROWS} ({error})"
        raise ValueError(f"{told}; mend its prompt, or the oracle that scored it") from None
    return line + "\n"


def _ended(keys: Sequence[str]) -> dict[str, Any]:
    return {"num": len(keys), "keys": hashlib.sha256("\n".join(keys).encode()).hexdigest()}


def _about(folder: Path) -> dict[str, Any]:
    stored = read_json(folder / ABOUT)
    if not isinstance(stored, dict):
        raise ValueError(f"{folder / ABOUT} is damaged; name another folder, or give --overwrite")
    return stored


def _lines(file: Path) -> list[tuple[dict[str, Any], bytes]]:
    """Rows and the bytes of each, without what a kill has left of a last one. ValueError in one line for others."""
    lines = file.read_bytes().split(b"\n") if file.is_file() else []
    found = []
    for place, line in enumerate(lines[:-1], 1):
        try:
            row = parse_json(line)
            ROW(row, "")
        except ValueError as error:
            where = f"{file}, line {place}, is not of a draw ({error})"
            raise ValueError(f"{where}; name another folder, or give --overwrite") from None
        found.append((row, line + b"\n"))
    return found
