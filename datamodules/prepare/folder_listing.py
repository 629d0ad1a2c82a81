"""The pictures below a folder: their paths, what else lies there, what a table may call them, and their keys."""

import hashlib
import os
import re
import unicodedata
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from datamodules.prepare.picture_formats import readable, why_not
from datamodules.prepare.sidecars import stem, texts_of

LONGEST_NAME = 120  # characters of a path that its key keeps
LINES = 12  # kinds of files that are said to be left out


class Listing(NamedTuple):
    """pictures, texts: paths relative to the folder, sorted. others: {why they are left out: paths}."""

    pictures: list[str]
    texts: list[str]
    others: dict[str, list[str]]

    def told(self) -> list[str]:
        """A line with the pictures by suffix, and one for each kind of file that is left out, both by their number."""
        suffixes = Counter(Path(name).suffix.lower() for name in self.pictures).most_common()
        found = f"pictures: {', '.join(f'{number} {suffix}' for suffix, number in suffixes)}"
        kinds = sorted(self.others.items(), key=lambda kind: -len(kind[1]))
        lines = [f"left out, {why}: {len(names)}, such as {names[0]!a}" for why, names in kinds[:LINES]]
        rest = kinds[LINES:]
        return [found, *lines] + (
            [f"left out: {sum(len(names) for _, names in rest)} files of other kinds"] if rest else []
        )


def pictures_below(folder: Path, texts: bool) -> Listing:
    """All files below a folder by what becomes of them; `texts`: a .txt belongs to the picture that texts_of says."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; name the one with the pictures with --images")
    pictures, others = [], {}
    for path, why in sorted(_files(folder)):
        if why is None:
            pictures.append(path)
        else:
            others.setdefault(why, []).append(path)
    sidecars = [path for why in [*others] if texts and why.startswith(".txt,") for path in others.pop(why)]
    rest = [path for paths in others.values() for path in paths]
    taken = {text for some in (pictures, rest) for text in texts_of(some, sidecars).values()}
    doubled = {stem(text) for text in taken}
    for path in sidecars:
        if path not in taken:
            why = "beside another text" if stem(path) in doubled else "without a picture"
            others.setdefault(f"texts {why} of their name", []).append(path)
    if not pictures:
        seen = Counter({why.split(",")[0]: len(paths) for why, paths in others.items()})
        has = f"; it has {', '.join(why for why, _ in seen.most_common(5))}" if seen else ""
        raise ValueError(f"{folder}: no picture that ends in {', '.join(readable())}{has}")
    return Listing(pictures, sidecars, others)


def _files(folder: Path) -> list[tuple[str, str | None]]:
    """(path, why it is left out, None if it is a picture) of files, hidden folders, links to folders, closed ones."""
    found: list[tuple[str, str | None]] = []

    def closed(error: OSError) -> None:
        found.append((Path(error.filename).relative_to(folder).as_posix(), "folders that cannot be opened"))

    for place, folders, names in os.walk(folder, onerror=closed):
        here = Path(place).relative_to(folder)
        for name in folders:
            if name.startswith("."):
                found.append(((here / name).as_posix(), "hidden"))
            elif (Path(place) / name).is_symlink():
                found.append(((here / name).as_posix(), "links to folders, which are not followed"))
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [((here / name).as_posix(), _why_not(name)) for name in names]
    return found


def _why_not(name: str) -> str | None:
    if name.startswith("."):
        return "hidden"
    suffix = Path(name).suffix.lower()
    return None if suffix in readable() else f"{suffix or 'no suffix'}, {why_not(suffix)}"


def names_of(relative: str) -> list[str]:
    """What a row may call a picture, in the normal form that tables are read in, not twice.

    Its path, without suffix, without folder, without both; 7.0 for 7, as pandas writes whole numbers.
    """
    path = PurePosixPath(unicodedata.normalize("NFC", relative))
    number = [f"{path.stem}.0"] if path.stem.isdecimal() else []
    return list(dict.fromkeys([str(path), str(path.with_suffix("")), path.name, path.stem, *number]))


def keys_of(found: list[str]) -> dict[str, str]:
    """{key: path}; paths that would give the same key get a hash of the path, all of them, whatever their order."""
    names = {
        path: re.sub(r"[^A-Za-z0-9_-]", "_", str(PurePosixPath(path).with_suffix("")))[-LONGEST_NAME:] for path in found
    }
    counts = Counter(names.values())
    keys = {}
    for path, name in names.items():
        digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
        keys[name if counts[name] == 1 else f"{name}_{digest}"] = path
    return keys
