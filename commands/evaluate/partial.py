"""OUT/partial: what an evaluation that broke off had finished, so that the same command goes on from there."""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from commands.report.write import FILES
from fewstep.files.durable import replace_file
from fewstep.files.local_paths import local_path
from fewstep.files.plain_json import read_json

RUN = re.compile(r"\d{3,}")
KEPT = re.compile(r"plan\.json|\d{3,}\.(json|png)|\d{3,}/[0-9a-f]{32}\.(png|pt)")  # in OUT/partial
LONGEST_PATH = 4096  # signs
HALF_WRITTEN = re.compile(r"\.(.+)\.tmp\.\d+")


class Partial:
    """plan.json: the samples that everything in the folder belongs to. RUN.json, RUN.png: a measured run.

    RUN/: what was generated for it. Every file appears whole or not at all; the folder, with its first file.

    settings, files: what the samples depend on; another value or a changed file is another plan.
    metrics: what a measured run depends on besides, with the files that it names; with others, the samples are
    measured again but not made again.
    """

    def __init__(
        self, out: Path, command: str, settings: Mapping[str, Any], files: Sequence[Path], metrics: Any
    ) -> None:
        identity = _digest([dict(settings), [_state(path, out) for path in files]])
        self._run_id = _digest([identity, metrics, [_state(path, out) for path in files_in(metrics)]])
        self.folder = out / "partial"
        self._plan = {"schema": 1, "command": command, "id": identity}

    def check(self, overwrite: bool) -> None:
        """ValueError if the folder belongs to another command; with `overwrite` that is deleted instead."""
        for place in self.folder.absolute().parents:
            if place.name == "partial" and (place / "plan.json").is_file():
                raise ValueError(f"{place} belongs to another evaluation, which will delete it; name another --out")
        if not self.folder.exists():
            return
        try:
            plan = read_json(self.folder / "plan.json")
            identity, command = str(plan["id"]), str(plan["command"])
            if not re.fullmatch("[0-9a-f]{64}", identity):
                raise ValueError(identity)
        except (OSError, ValueError, KeyError, TypeError):
            raise ValueError(
                f"{self.folder} was not left by an evaluation; move it away or choose another --out"
            ) from None
        if identity == self._plan["id"]:
            return
        if overwrite:
            self.remove()
        elif command == self._plan["command"]:
            raise ValueError(
                f"{self.folder} holds a broken-off evaluation of files that have changed since; delete it or add "
                "--overwrite to begin anew"
            )
        else:
            raise ValueError(
                f"{self.folder} holds a broken-off evaluation by `{command}`; repeat that command to finish it (other "
                "metrics may be chosen), name another --out, or add --overwrite to drop it"
            )

    def finished(self, number: int) -> tuple[dict[str, Any], bytes | None] | None:
        """The run of this number and its picture, if it had been measured."""
        try:
            kept = read_json(self.folder / f"{number:03d}.json")
            identity, run = kept["id"], kept["run"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if identity != self._run_id:
            return None
        picture = self.folder / f"{number:03d}.png"
        return run, picture.read_bytes() if picture.exists() else None

    def keep(self, number: int, run: Mapping[str, Any], picture: bytes | None) -> None:
        content = json.dumps({"id": self._run_id, "run": run}, allow_nan=False).encode()
        if picture:
            self.write(f"{number:03d}.png", picture)
        self.write(f"{number:03d}.json", content)  # last: where it is, all is

    def of_run(self, number: int) -> "RunFiles":
        return RunFiles(self, f"{number:03d}")

    def write(self, name: str, content: bytes) -> None:
        if not (self.folder / "plan.json").exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            replace_file(self.folder / "plan.json", json.dumps(self._plan, indent=1).encode())
        (self.folder / name).parent.mkdir(exist_ok=True)
        replace_file(self.folder / name, content)

    def remove(self) -> None:
        """Nothing of this is needed any more; what an evaluation did not put there stays."""
        for path in sorted(self.folder.rglob("*"), reverse=True):  # what a folder holds before the folder
            if path.is_dir() and not path.is_symlink():
                if path.parent == self.folder and RUN.fullmatch(path.name) and not any(path.iterdir()):
                    path.rmdir()
            elif KEPT.fullmatch(_whole(path).relative_to(self.folder).as_posix()):
                path.unlink(missing_ok=True)
        with suppress(OSError):  # not empty, or never made
            self.folder.rmdir()


class RunFiles:
    """What was generated for one run, file by file."""

    def __init__(self, partial: Partial, name: str) -> None:
        self._partial, self._name = partial, name

    def read(self, name: str) -> bytes:
        """OSError where there is none."""
        return (self._partial.folder / self._name / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        self._partial.write(f"{self._name}/{name}", content)


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def files_in(metrics: Any) -> Iterator[Path]:
    """The files and folders that options of metrics name, such as weights or reference pictures."""
    if isinstance(metrics, Mapping):
        for key, value in metrics.items():
            yield from files_in(value) if key != "cache_dir" else ()
    elif isinstance(metrics, list | tuple):
        for value in metrics:
            yield from files_in(value)
    elif isinstance(metrics, str):
        with suppress(ValueError):  # of a path that is none
            path = Path(local_path(metrics))
            if path.name and len(metrics) < LONGEST_PATH and os.path.lexists(path):
                yield path


def _state(path: Path, out: Path) -> list[Any]:
    """Path, size and time of a file, or of every file in a folder, but for what this evaluation writes in `out`."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    files = [f for f in files if f.exists() and (f == path or not _written(f.resolve(), out.resolve()))]
    return [[str(f.absolute()), f.stat().st_size, f.stat().st_mtime_ns] for f in files]


def _written(file: Path, out: Path) -> bool:
    name = _whole(file).name
    own = name in FILES or (name.startswith("samples-") and name.endswith(".png"))
    return file.is_relative_to(out / "partial") or (file.parent == out and own)


def _whole(path: Path) -> Path:
    """The file that this one would have become; any other as it is."""
    half = HALF_WRITTEN.fullmatch(path.name)
    return path.with_name(half[1]) if half else path
