"""Names for files that nobody chose with care: safe on every file system, and never one that is taken."""

import re
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path

LONGEST = 80  # characters, so that a suffix still fits into the 255 bytes that file systems allow
RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}


def safe_name(text: str, otherwise: str = "picture") -> str:
    """ASCII letters, digits, `_`, `-` and inner `.` of the text, all else a single `-`; `otherwise` if nothing stays.

    It cannot leave its folder, is no hidden file, no option on a command line and no device name of Windows.
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    name = re.sub(r"[^A-Za-z0-9_.]+", "-", plain)[:LONGEST].strip("-.")
    return f"{name}-" if name.split(".")[0].lower() in RESERVED else name or otherwise


def numbered(name: str, number: int) -> str:
    return f"{name}-{number}"


def numbered_safely(name: str, number: int) -> str:
    """The same for what safe_name made, as safe_name would have it: the number stays where the name is the longest."""
    end = f"-{number}"
    return safe_name(name[: LONGEST - len(end)].rstrip("-.") + end)


def distinct(names: Iterable[str], numbered: Callable[[str, int], str] = numbered) -> list[str]:
    """The names in their order, a repeated one with -2, -3, ... behind it; capitals tell no two names apart."""
    taken: set[str] = set()
    result = []
    for name in names:
        number, candidate = 1, name
        while candidate.lower() in taken:
            number += 1
            candidate = numbered(name, number)
        taken.add(candidate.lower())
        result.append(candidate)
    return result


def write_new(path: str | Path, content: bytes) -> Path:
    """Write to this path or, if there is such a file, to NAME-2, NAME-3, ...; returns where. Folders are made.

    Several processes may call it for one name: each gets its own file.
    """
    path, number, candidate = Path(path), 1, Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        try:
            with candidate.open("xb") as file:
                try:
                    file.write(content)
                    file.flush()
                except OSError:  # a full disk: no half of a file stays
                    candidate.unlink()
                    raise
            return candidate
        except FileExistsError:
            number += 1
            candidate = path.with_name(f"{path.stem}-{number}{path.suffix}")
