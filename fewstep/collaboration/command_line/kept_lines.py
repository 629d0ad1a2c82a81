"""A file of JSON lines that grows with a long command: what it is of, then a line for every finished part of the work.

A command that was killed goes on with it, and refuses that of other settings.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fewstep.collaboration.command_line.judges import require_free_folder
from fewstep.files.durable import replace_file
from fewstep.files.plain_json import parse_json

ENDED = "ended"  # in the first line, where nothing is left to do


class KeptLines:
    """rows: what is finished, of this process and of those before it.

    head: what the work is of; ValueError in one line where the file has an unfinished one of something else.
    """

    def __init__(self, file: Path, head: Mapping[str, Any], overwrite: bool = False) -> None:
        self.file, self.head, self.rows = file, json.loads(json.dumps(dict(head))), list[dict[str, Any]]()
        if not overwrite and (lines := unfinished(file)):
            _refuse_other(file, lines[0], self.head)
            self.rows = lines[1:]
        file.parent.mkdir(parents=True, exist_ok=True)
        self._write(self.head)

    def add(self, *rows: Mapping[str, Any]) -> None:
        """Finished parts, on the disk when this returns."""
        with self.file.open("a") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows))
            file.flush()
            os.fsync(file.fileno())
        self.rows += map(dict, rows)

    def end(self, **more: Any) -> None:
        """Nothing goes on from here. more: for the first line."""
        self._write(self.head | more | {ENDED: True})

    def _write(self, head: Mapping[str, Any]) -> None:
        replace_file(self.file, "".join(json.dumps(line) + "\n" for line in (head, *self.rows)).encode())


def require_free_or_unfinished(file: Path, overwrite: bool) -> None:
    """ValueError in one line where the file's folder holds anything but work that can go on."""
    if overwrite or not unfinished(file):
        require_free_folder(file.parent, overwrite)


def unfinished(file: Path) -> list[dict[str, Any]]:
    """The lines of work that was stopped, without what a kill has left of a last one; [] for anything else."""
    lines = file.read_bytes().split(b"\n")[:-1] if file.is_file() else []
    try:
        found = [parse_json(line) for line in lines]
    except ValueError:
        return []
    return [] if not found or not all(isinstance(line, dict) for line in found) or ENDED in found[0] else found


def _refuse_other(file: Path, stored: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    before, after = ({**head, **head.get("about", {}), "about": None} for head in (stored, now))
    for name in {**after, **before}:
        if before.get(name) != after.get(name):
            told = f"of {name} {str(before.get(name))[:60]}, this is of {str(after.get(name))[:60]}"
            raise ValueError(f"{file} is {told}; name another --out, or give --overwrite")
