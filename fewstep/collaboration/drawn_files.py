"""A folder of pictures that grows, and what is told of each; a process that was killed goes on in it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fewstep.files.durable import replace_file, write_synced
from fewstep.files.names import safe_name
from fewstep.files.plain_json import parse_json, read_json
from fewstep.files.plain_reader import fields, number, shown, text

ABOUT, ROWS = "draw.json", "samples.jsonl"


def _name(value: Any, name: str) -> None:
    text(value, name)
    if value != safe_name(value):
        raise ValueError(f"{name} is {shown(value)}, which names no file")


NUMBERS = dict.fromkeys(("draft_score", "passes", "seconds"), number)
ROW = fields({"key": _name, "prompt": text, "attributes": lambda value, name: None, "route": text, **NUMBERS})


class DrawnFiles:
    """OUT/KEY.png, and a line of OUT/samples.jsonl once that picture is there. done: {key: its line}.

    about: what the pictures are of; a folder with pictures of something else is refused in one line, and so is one that
    no `draw` has begun, unless overwrite, which begins anew but deletes nothing else.
    """

    def __init__(self, out: Path, about: Mapping[str, Any], overwrite: bool = False) -> None:
        self.out, self.done = out, dict[str, dict[str, Any]]()
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
        (out / ROWS).unlink(missing_ok=True)
        replace_file(out / ABOUT, (json.dumps(told, indent=1) + "\n").encode())

    def _go_on(self, told: Mapping[str, Any]) -> None:
        stored = read_json(self.out / ABOUT)
        if not isinstance(stored, dict):
            raise ValueError(f"{self.out / ABOUT} is damaged; name another folder, or give --overwrite")
        for name, value in told.items():
            if stored.get(name) != value:
                raise ValueError(
                    f"--out {self.out} has pictures of {name} {stored.get(name)}, these are of {value}; name another "
                    "folder, or give --overwrite"
                )
        lines = (self.out / ROWS).read_bytes().split(b"\n") if (self.out / ROWS).is_file() else []
        kept = []
        for place, line in enumerate(lines[:-1], 1):  # after the last there is nothing, or what a kill left of one
            try:
                row = parse_json(line)
                ROW(row, "")
            except ValueError as error:
                where = f"{self.out / ROWS}, line {place}, is not of a draw ({error})"
                raise ValueError(f"{where}; name another folder, or give --overwrite") from None
            if (self.out / f"{row['key']}.png").is_file():
                self.done[row["key"]] = row
                kept.append(line + b"\n")
        if b"".join(kept) != b"\n".join(lines):
            replace_file(self.out / ROWS, b"".join(kept))

    def check(self, asked: Mapping[str, tuple[str, Any]]) -> None:
        """ValueError in one line where a picture that is there was drawn for another (prompt, attributes)."""
        for key, row in self.done.items():
            if key in asked and (row["prompt"], row["attributes"]) != asked[key]:
                raise ValueError(
                    f"--out {self.out} has {key}.png of {row['prompt'][:60]!r}, which is asked for otherwise now; name "
                    "another folder, or give --overwrite"
                )

    def add(self, rows: Sequence[dict[str, Any]], pictures: Sequence[bytes]) -> None:
        """Pictures first, then all their lines at once."""
        for row, content in zip(rows, pictures, strict=True):
            write_synced(self.out / f"{row['key']}.png", content)
        with (self.out / ROWS).open("ab") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows).encode())
        self.done |= {row["key"]: row for row in rows}
