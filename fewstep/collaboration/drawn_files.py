"""A folder of pictures that grows, and what is told of each; a process that was killed goes on in it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fewstep.files.durable import replace_file, write_synced
from fewstep.files.plain_json import read_json

ABOUT, ROWS = "draw.json", "samples.jsonl"


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
        for line in lines[:-1]:  # after the last newline there is nothing, or what a kill left of a line
            row = json.loads(line)
            self.done[row["key"]] = row
        if lines and lines[-1]:
            replace_file(self.out / ROWS, b"".join(line + b"\n" for line in lines[:-1]))

    def add(self, rows: Sequence[dict[str, Any]], pictures: Sequence[bytes]) -> None:
        """Pictures first, then all their lines at once."""
        for row, content in zip(rows, pictures, strict=True):
            write_synced(self.out / f"{row['key']}.png", content)
        with (self.out / ROWS).open("ab") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows).encode())
        self.done |= {row["key"]: row for row in rows}
