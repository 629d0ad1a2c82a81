"""Which run somebody may have meant who named one that is not there."""

import difflib
import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from shlex import quote

SHOWN, LISTED = 3, 12
LOOKED_AT = 10_000  # folders
OF_AN_ID = re.compile(r"\d{8}-\d{6}")  # how the names begin that train.py gives


def is_run(folder: Path) -> bool:
    """Whether train.py has written this folder."""
    return (folder / "config.yaml").is_file() or any(folder.glob("checkpoints/*.ckpt"))


def runs_in(folder: Path) -> list[Path]:
    """Runs directly below a folder, the newest first."""
    found = [p for p in islice(_entries(folder), LOOKED_AT) if is_run(p)]
    return sorted(found, key=lambda run: run.stat().st_mtime_ns, reverse=True)


def nearest_runs(folder: Path) -> list[Path]:
    """At most three runs: those in `folder`, else the ones of the most similar names, else the newest around it."""
    if inside := runs_in(folder):
        return inside[:SHOWN]
    around = [run for place in _around(folder) for run in (place, *runs_in(place)) if is_run(run)]
    names = {str(run): run for run in around}
    names.pop(str(folder), None)  # it is no answer to itself
    close = difflib.get_close_matches(str(folder), names, n=SHOWN, cutoff=0.6)
    return [names[name] for name in close] or list(names.values())[:SHOWN]


def named(runs: Iterable[Path]) -> str:
    """For the end of a line."""
    listed = ", ".join(map(str, runs))
    return f"; nearest runs: {listed}" if listed else "; there is no run near it"


def refuse_mistyped(folder: Path) -> None:
    """ValueError in one line for a folder to go on in that is likely to be another one than was meant."""
    if not folder.exists() and (run := mistyped(folder)):
        raise ValueError(
            f"run {folder} does not exist; nearest run: {run}; if this is to be a new one, mkdir {quote(str(folder))} "
            "beforehand"
        )
    if not is_run(folder) and (inside := runs_in(folder)):
        raise ValueError(f"{folder} holds runs and is none itself{named(inside[:SHOWN])}; add --run_dir with one")


def refuse_folder_of_runs(folder: Path) -> None:
    """ValueError in one line that lists the runs, the newest first, for a folder that only holds some."""
    if is_run(folder) or not (inside := runs_in(folder)):
        return
    more = f" and {len(inside) - LISTED} more" if len(inside) > LISTED else ""
    raise ValueError(
        f"{folder} holds runs and is none itself; name some of them: {' '.join(map(str, inside[:LISTED]))}{more}"
    )


def mistyped(folder: Path) -> Path | None:
    """A run beside `folder`, which does not exist, whose name this one is likely to be meant for.

    Names with other numbers or other single letters are other runs on purpose: seed_1 beside seed_0. One that begins
    like an id was never made up; else one word must be that of the run but for a slip.
    """
    siblings = runs_in(folder.parent)
    close = difflib.get_close_matches(folder.name, [run.name for run in siblings], n=1, cutoff=0.8)
    if OF_AN_ID.match(folder.name) and siblings:
        return folder.parent / close[0] if close else siblings[0]
    return next((run for run in siblings if _slip(folder.name, run.name)), None)


def _slip(one: str, other: str) -> bool:
    """Whether two names differ in case, in separators between words, or by one slip in one word."""
    a, b = (re.findall(r"[^\W\d_]+|\d+", name.casefold()) for name in (one, other))
    if one.casefold() == other.casefold() or (a == b and not re.search(r"\d", one)):
        return True
    differing = [(x, y) for x, y in zip(a, b, strict=False) if x != y]
    return len(a) == len(b) and len(differing) == 1 and _one_slip(*differing[0])


def _one_slip(x: str, y: str) -> bool:
    """One letter more, less or other, or two exchanged, in words of five letters or more."""
    if min(len(x), len(y)) < 5 or not (x + y).isalpha():
        return False
    start = _common(x, y)
    x, y = x[start:], y[start:]
    end = _common(x[::-1], y[::-1])
    x, y = x[: len(x) - end], y[: len(y) - end]
    return max(len(x), len(y)) <= 1 or (len(x) == 2 and x == y[::-1])


def _common(x: str, y: str) -> int:
    """How many letters two words begin with together."""
    return next((place for place, (a, b) in enumerate(zip(x, y, strict=False)) if a != b), min(len(x), len(y)))


def _around(folder: Path) -> list[Path]:
    """Folders that may hold the run: the one it was looked for in, those beside that, and runs/*."""
    parent = next((p for p in folder.parents if p.is_dir()), Path())
    places = [parent, *_entries(parent), *_entries(parent.parent), *_entries(Path("runs"))]
    return list(dict.fromkeys(places))[:100]


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if p.is_dir())
    except OSError:
        return []
