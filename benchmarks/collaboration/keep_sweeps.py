"""Sweeps as small files, so that others can ask them further questions.

    python benchmarks/collaboration/keep_sweeps.py SWEEP_0 SWEEP_1 SWEEP_2 --out docs/results/collaboration

Every folder's sweep.jsonl becomes NAME.jsonl.gz of the folder's name, with six digits of every value, which
claims.py and guarantees.py read like the folder.
"""

import argparse
import gzip
import json
from pathlib import Path
from typing import Any

DIGITS = 6


def read_sweep(place: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(what it is of, its rows) of a folder or of a file that was kept; the lines after its ways are left out."""
    if place.is_dir():
        text = (place / "sweep.jsonl").read_text()
    else:
        text = gzip.decompress(place.read_bytes()).decode()
    head, *rows = [json.loads(line) for line in text.splitlines()]
    return head, [row for row in rows if "values" in row]


def kept(place: Path) -> bytes:
    """The file of a folder's sweep; of the same sweep always the same bytes."""
    head, rows = read_sweep(place)
    return gzip.compress("".join(json.dumps(rounded(row)) + "\n" for row in [head, *rows]).encode(), mtime=0)


def rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    return [rounded(part) for part in value] if isinstance(value, list) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweeps", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for place in options.sweeps:
        (options.out / f"{place.name}.jsonl.gz").write_bytes(kept(place))


if __name__ == "__main__":
    main()
