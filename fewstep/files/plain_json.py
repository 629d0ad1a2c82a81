"""JSON from files that strangers may have written: what is odd is one ValueError in one line.

Python's reader takes more than JSON has (NaN, Infinity, 1e400 as infinity), keeps the last of equal keys, and follows
brackets until its stack ends; values that are nested deeper than MOST_NESTED cannot be handed on by pickle, either.
"""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

MOST_NESTED = 64
MOST_BYTES = 1 << 26
MOST_DIGITS = 300


def parse_json(content: bytes | str, sloppy: bool = False) -> Any:
    """What the content says; ValueError for no JSON, deep nesting, numbers beyond float64, NaN, a key given twice.

    sloppy: NaN and Infinity, which some writers put for a value that is lacking, become None; the last of equal keys
    counts.
    """
    options: dict[str, Any] = {"parse_constant": _absent} if sloppy else {"object_pairs_hook": _distinct}
    try:
        value = json.loads(
            content, **{"parse_constant": _refused, "parse_float": _finite, "parse_int": whole_number} | options
        )
    except RecursionError:
        raise ValueError(f"nested deeper than {MOST_NESTED} levels") from None
    except MemoryError:
        raise ValueError("too large for the memory") from None
    braces = (b"[", b"{") if isinstance(content, bytes) else ("[", "{")
    if sum(map(content.count, braces)) > MOST_NESTED and _deep(value):  # type: ignore[arg-type]
        raise ValueError(f"nested deeper than {MOST_NESTED} levels")
    return value


def read_json(file: str | Path) -> Any:
    """The same from a file; OSError if it cannot be read, ValueError if it is larger than MOST_BYTES."""
    return parse_json(small_file(file))


def small_file(file: str | Path) -> bytes:
    """Its bytes; ValueError in one line if they are more than MOST_BYTES."""
    with open(file, "rb") as opened:
        content = opened.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"{file} is longer than {MOST_BYTES} bytes, which such a file never is")
    return content


def _deep(value: Any) -> bool:
    level = [value]
    for _ in range(MOST_NESTED):
        inside = (v.values() if isinstance(v, dict) else v for v in level)
        level = [child for children in inside for child in children if isinstance(child, dict | list)]
    return bool(level)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        name = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {name[:80]!r} stands twice")
    return found


def _finite(digits: str) -> float:
    if not math.isfinite(value := float(digits)):
        raise ValueError(f"{digits[:20]} is larger than any float64")
    return value


def whole_number(digits: str) -> int:
    """int(digits); ValueError for what no float64 could hold, which Python would refuse with advice about itself."""
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"a whole number of {len(digits)} digits is larger than any float64")
    return int(digits)


def _refused(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _absent(name: str) -> None:
    return None
