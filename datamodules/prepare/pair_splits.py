"""Which of a user's pairs train, validate and test: by chance, by groups that stay together, or by time."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np

from datamodules.number_table import NAMED, titles_of
from datamodules.parquet_tables import opened, require_titles
from datamodules.text_tables import read_csv

SPLITS = ("val", "test", "train_paired")


def split_rows(
    num: int, val: float, test: float, rng: np.random.Generator, groups: Sequence[str] = (), times: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Row numbers of train_paired, val and test; splits whose share is zero are left out.

    groups: rows of one group stay together, and the groups are drawn by chance. times: the earliest rows train, later
    ones validate, the latest test; rows of one time stay together. ValueError in one line.
    """
    if not (val >= 0 and test >= 0 and val + test < 1):
        raise ValueError(
            f"--val-fraction {val} and --test-fraction {test} must be at least 0 and add up to less than 1"
        )
    if len(times):
        rank = np.unique(moments(times), return_inverse=True)[1]
        parts = by_block(rank.max() - rank, (test, val))  # the latest first
        parts = [parts[1], parts[0], parts[2]]
    elif len(groups):
        number = np.unique(np.asarray(groups), return_inverse=True)[1]
        parts = by_block(rng.permutation(number.max() + 1)[number], (val, test))
    else:
        order = rng.permutation(num)
        parts = np.split(order, np.cumsum([round(num * val), round(num * test)]))
    found = dict(zip(SPLITS, parts, strict=True))
    for split, share in (("val", val), ("test", test), ("train_paired", 1.0)):
        if not len(found[split]) and share and (len(groups) or len(times)):
            kind, kinds = ("group", set(groups)) if len(groups) else ("time", set(times))
            raise ValueError(
                f"{len(kinds)} {kind}{'s' * (len(kinds) > 1)} leave none for {split}; change the fractions"
            )
    if not len(found["train_paired"]):
        raise ValueError(f"{num} pairs leave none to train on; lower --val-fraction or --test-fraction")
    return {name: rows for name, rows in found.items() if len(rows)}


def by_block(block: np.ndarray, shares: tuple[float, float]) -> list[np.ndarray]:
    """Rows of whole blocks 0, 1, ...: for each share the blocks whose middle lies in it; the third part is the rest."""
    sizes = np.bincount(block)
    middle = (np.cumsum(sizes) - sizes / 2) / len(block)
    part = np.searchsorted(np.cumsum(shares), middle, side="right")[block]
    return [np.flatnonzero(part == number) for number in range(3)]


def moments(times: Sequence[str]) -> np.ndarray:
    """Numbers, or dates as ISO 8601 writes them, as float64 that sort alike."""
    try:
        numbers = np.array([float(text) for text in times])
    except ValueError:
        try:
            read = [datetime.fromisoformat(text) for text in times]
            numbers = np.array([(one - datetime(1, 1, 1, tzinfo=one.tzinfo)).total_seconds() for one in read])
        except (ValueError, TypeError):
            odd = next(text for text in times if not is_moment(text))
            raise ValueError(f"--time-column holds {odd[:40]!r}; write numbers, or dates such as 2024-05-31") from None
    if not np.isfinite(numbers).all():
        raise ValueError("--time-column holds a number that is not finite; leave such rows out")
    return numbers


def is_moment(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def labels(path: Path, title: str, option: str, encoding: str | None = None) -> list[str]:
    """The cells of a column as text; ValueError in one line for a table without names or a cell that is empty."""
    if path.suffix.lower() not in NAMED:
        raise ValueError(f"{option} {title}: {path} has no names of columns; give a .csv or .parquet of pairs")
    require_titles(path, [title], titles_of(path, encoding) or [])
    if path.suffix.lower() == ".parquet":
        with opened(path) as file:
            cells = [
                str(cell) for batch in file.iter_batches(columns=[title]) for cell in batch.column(title).to_pylist()
            ]
    else:
        cells = [row.get(title, "").strip() for _, row in read_csv(path, encoding).rows if row]
    if "" in cells:
        raise ValueError(f"{option} {title}: row {cells.index('') + 1} of {path} is empty there; fill it in")
    return cells
