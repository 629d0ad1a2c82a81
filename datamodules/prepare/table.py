"""Your own vectors: pairs, and optionally further x and y without a partner, from .npy or .csv files.

Training pairs also serve as unpaired rows of a side for which no file is given: with fewer labelled pairs than pairs in
the folder (`num_pairs` of the datamodule), the others then count as unlabelled.
"""

import argparse
import csv
from pathlib import Path

import numpy as np

from datamodules.prepare import add_output_arguments


def add_arguments(command: argparse.ArgumentParser) -> None:
    add_output_arguments(command)
    pairs_help = "X.npy Y.npy, or one .csv with --x-columns and --y-columns"
    command.add_argument("--pairs", nargs="+", required=True, metavar="FILE", help=pairs_help)
    command.add_argument("--x-columns", type=names, metavar="A,B", help="columns of x in .csv files")
    command.add_argument("--y-columns", type=names, metavar="C,D", help="columns of y in .csv files")
    command.add_argument("--unpaired-x", metavar="FILE", help="more x, .npy or .csv")
    command.add_argument("--unpaired-y", metavar="FILE", help="more y, .npy or .csv")
    command.add_argument("--val-fraction", type=float, default=0.2, help="share of the pairs for validation (0.2)")
    command.add_argument("--test-fraction", type=float, default=0.2, help="share of the pairs for the test (0.2)")
    command.add_argument(
        "--standardise", action="store_true", help="subtract the training mean, divide by its deviation"
    )
    command.add_argument("--name", default="table", help="name kept in index.json")
    command.add_argument("--license", default="unstated", help="licence kept in index.json")


def names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def run(options: argparse.Namespace) -> None:
    from datamodules.shard_writing import Description, write_folder

    x, y = read_pairs(options.pairs, options.x_columns, options.y_columns)
    splits = split_pairs(x, y, options.val_fraction, options.test_fraction, np.random.default_rng(options.seed))
    for side, file, columns in (
        ("x", options.unpaired_x, options.x_columns),
        ("y", options.unpaired_y, options.y_columns),
    ):
        rows = read_table(Path(file), columns) if file else splits["train_paired"][side]
        if rows.shape[1] != splits["train_paired"][side].shape[1]:
            raise ValueError(
                f"{file}: {rows.shape[1]} columns, but {side} of the pairs has {splits['train_paired'][side].shape[1]}"
            )
        splits[f"train_{side}"] = {side: rows}
        if not file:
            print(f"no --unpaired-{side}: train_{side} holds the {side} of the {len(rows)} training pairs")
    scale = standardise(splits, options.x_columns, options.y_columns) if options.standardise else {}
    about = Description(
        options.name, options.license, options.command_line, options.x_columns, options.y_columns, **scale
    )
    index = write_folder(options.out, splits, about, overwrite=options.overwrite)
    print(f"{options.out}: " + ", ".join(f"{split} {entry['rows']}" for split, entry in index["splits"].items()))


def read_pairs(files: list[str], x_columns: list[str] | None, y_columns: list[str] | None) -> tuple:
    """x [N, Dx] and y [N, Dy] from two tables, or from the columns of one .csv."""
    if len(files) == 1 and not files[0].endswith(".csv"):
        raise ValueError(f"--pairs {files[0]}: give X.npy and Y.npy, or one .csv with --x-columns and --y-columns")
    if len(files) > 2:
        raise ValueError(f"--pairs takes one or two files, not {len(files)}")
    if len(files) == 1 and not (x_columns and y_columns):
        raise ValueError(f"--pairs {files[0]}: name the columns with --x-columns and --y-columns")
    x, y = read_table(Path(files[0]), x_columns), read_table(Path(files[-1]), y_columns)
    if len(x) != len(y):
        raise ValueError(f"{files[0]} has {len(x)} rows and {files[1]} {len(y)}; pairs need equally many")
    return x, y


def read_table(path: Path, columns: list[str] | None) -> np.ndarray:
    """float64 [N, D] of a .npy file or of the named columns of a .csv (all columns when none are named)."""
    if not path.is_file():
        raise ValueError(f"no file {path}")
    if path.suffix == ".csv":
        table, titles = read_csv(path, columns)
    else:
        table, titles = read_npy(path), None
    bad = np.argwhere(~np.isfinite(table))
    if len(bad):
        row, column = bad[0]
        raise ValueError(
            f"{path}: row {row + 1}, column {titles[column] if titles else column + 1} is {table[row, column]}"
        )
    return table


def read_npy(path: Path) -> np.ndarray:
    try:
        table = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path}: not a plain .npy array of numbers; save it with numpy.save") from error
    if table.dtype.kind not in "fiu" or table.ndim not in (1, 2) or not table.size:
        raise ValueError(f"{path}: {table.dtype} of shape {table.shape}; expected numbers of shape [rows, columns]")
    return (table if table.ndim == 2 else table[:, None]).astype(np.float64)


def read_csv(path: Path, columns: list[str] | None) -> tuple[np.ndarray, list[str]]:
    """The named columns of a .csv with a header line, and their names."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        titles = columns or list(reader.fieldnames or [])
        if missing := [title for title in titles if title not in (reader.fieldnames or [])]:
            raise ValueError(f"{path}: no column {missing[0]!r}, only {', '.join(reader.fieldnames or [])}")
        table = [[number(path, row, line, title) for title in titles] for line, row in enumerate(reader, start=1)]
    if not table:
        raise ValueError(f"{path}: no rows")
    return np.array(table), titles


def number(path: Path, row: dict, line: int, title: str) -> float:
    try:
        return float(row[title])
    except (TypeError, ValueError):
        raise ValueError(f"{path}: row {line}, column {title} is {row[title]!r}, not a number") from None


def split_pairs(x: np.ndarray, y: np.ndarray, val: float, test: float, rng: np.random.Generator) -> dict:
    """train_paired, val and test; splits whose share is zero are left out."""
    if val < 0 or test < 0 or val + test >= 1:
        raise ValueError(
            f"--val-fraction {val} and --test-fraction {test} must be at least 0 and add up to less than 1"
        )
    order = rng.permutation(len(x))
    ends = np.cumsum([round(len(x) * val), round(len(x) * test)])
    parts = dict(zip(("val", "test", "train_paired"), np.split(order, ends), strict=True))
    if not len(parts["train_paired"]):
        raise ValueError(f"{len(x)} pairs leave none to train on; lower --val-fraction or --test-fraction")
    return {name: {"x": x[rows], "y": y[rows]} for name, rows in parts.items() if len(rows)}


def standardise(splits: dict, x_columns: list[str] | None, y_columns: list[str] | None) -> dict[str, list[float]]:
    """Scale every split in place by the mean and standard deviation of train_x and train_y; returns them."""
    scale = {}
    for side, titles in (("x", x_columns), ("y", y_columns)):
        mean, std = splits[f"train_{side}"][side].mean(0), splits[f"train_{side}"][side].std(0)
        if len(constant := np.flatnonzero(std == 0)):
            title = titles[constant[0]] if titles else constant[0] + 1
            raise ValueError(f"column {title} of {side} is constant in training; leave it out")
        for sides in splits.values():
            if side in sides:
                sides[side] = (sides[side] - mean) / std
        scale |= {f"{side}_mean": mean.tolist(), f"{side}_std": std.tolist()}
    return scale
