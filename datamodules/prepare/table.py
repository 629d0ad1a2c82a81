"""Your own vectors: pairs, and optionally further x and y without a partner, from .npy, .csv, .tsv or .parquet files.

Columns are standardised by the training rows, index.json keeps by what, and the commands of a trained model take and
give values as they stand in your files (docs/own_table.md).

Training pairs also serve as unpaired rows of a side for which no file is given: with fewer labelled pairs than pairs in
the folder (`num_pairs` of the datamodule), the others then count as unlabelled.
"""

import argparse
from pathlib import Path

import numpy as np

from datamodules.number_table import NAMED, read_table
from datamodules.prepare import add_output_arguments
from datamodules.prepare.pair_splits import labels, split_rows
from datamodules.prepare.saying import say
from fewstep.files.table_columns import LONGEST_NAME, is_name

ROUNDING = 2  # in units of the last place: a smaller deviation is none


def add_arguments(command: argparse.ArgumentParser) -> None:
    add_output_arguments(command)
    pairs_help = "X.npy Y.npy, or one .csv or .parquet with --x-columns and --y-columns"
    command.add_argument("--pairs", nargs="+", required=True, metavar="FILE", help=pairs_help)
    command.add_argument("--x-columns", type=names, metavar="A,B", help="columns of x in .csv and .parquet files")
    command.add_argument("--y-columns", type=names, metavar="C,D", help="columns of y in .csv and .parquet files")
    command.add_argument("--encoding", help="of .csv files; default: UTF-8")
    command.add_argument("--decimal-comma", action="store_true", help="numbers in .csv files are written 1234,5")
    command.add_argument("--unpaired-x", metavar="FILE", help="more x, .npy or .csv with the columns of x")
    command.add_argument("--unpaired-y", metavar="FILE", help="more y, .npy or .csv with the columns of y")
    command.add_argument("--val-fraction", type=float, default=0.2, help="share of the pairs for validation (0.2)")
    command.add_argument("--test-fraction", type=float, default=0.2, help="share of the pairs for the test (0.2)")
    command.add_argument("--group-column", metavar="A", help="rows that are alike in this column stay in one split")
    command.add_argument("--time-column", metavar="A", help="train on the earliest rows, test on the latest")
    command.add_argument(
        "--test-pairs", nargs="+", metavar="FILE", help="further pairs, which are the test and no more"
    )
    command.add_argument(
        "--standardise",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="subtract the training mean, divide by its deviation (the default)",
    )
    like = "subtract and divide by what this shard folder did: new rows for a model that was trained on it"
    command.add_argument("--like", metavar="FOLDER", help=like)
    command.add_argument("--raw-y", action="store_true", help="keep y as it is and standardise x only: class numbers")
    command.add_argument("--name", default="table", help="name kept in index.json")
    command.add_argument("--license", default="unstated", help="licence kept in index.json")


def names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def run(options: argparse.Namespace) -> None:
    from datamodules.prepare.shard_writing import Description, write_folder

    reading = options.encoding, options.decimal_comma
    x, y, *titles = read_pairs(options.pairs, options.x_columns, options.y_columns, *reading)
    splits = split_pairs(options, x, y)
    if options.test_pairs:
        splits["test"] = test_pairs(options, splits["train_paired"], *titles)
    for side, file, columns in (("x", options.unpaired_x, titles[0]), ("y", options.unpaired_y, titles[1])):
        rows = read_table(Path(file), columns, *reading)[0] if file else splits["train_paired"][side]
        if rows.shape[1] != splits["train_paired"][side].shape[1]:
            raise ValueError(
                f"{file}: {rows.shape[1]} columns, but {side} of the pairs has {splits['train_paired'][side].shape[1]}"
            )
        splits[f"train_{side}"] = {side: rows}
        if not file:
            say(f"no --unpaired-{side}: train_{side} holds the {side} of the {len(rows)} training pairs")
    scale = standardise_like(options, splits, *titles)
    try:
        scale = standardise(splits, *titles, sides=scaled(options)) if scale is None else scale
    except ValueError as error:
        raise ValueError(f"{options.pairs[0]}: {error}") from None
    check_float32(splits, *titles)
    about = Description(options.name, options.license, options.command_line, *titles, **scale)
    index = write_folder(options.out, splits, about, overwrite=options.overwrite)
    say(f"{options.out}: " + ", ".join(f"{split} {entry['rows']}" for split, entry in index["splits"].items()))


def scaled(options: argparse.Namespace) -> str:
    """The sides to standardise."""
    return ("x" if options.raw_y else "xy") if options.standardise else ""


def standardise_like(options: argparse.Namespace, splits: dict, *names: list[str] | None) -> dict | None:
    """Scale every split in place as the folder of --like is; its means and deviations, None without --like."""
    from datamodules.vector_shards import ShardFolder
    from fewstep.files.table_columns import columns_of, lists_of

    if options.like is None:
        return None
    if options.raw_y or not options.standardise:
        raise ValueError(f"--like {options.like} says what is standardised; leave --raw-y and --no-standardise out")
    index, scale = ShardFolder(options.like).index, {}
    for side, titles in zip("xy", names, strict=True):
        known, dim = lists_of(index, side), splits["train_paired"][side].shape[1]
        if columns_of(index, side) not in (None, dim) or (titles and known.get(f"{side}_names", titles) != titles):
            there = ", ".join(known.get(f"{side}_names", ())) or f"{columns_of(index, side)} columns"
            raise ValueError(f"{side} of --like {options.like} is {there}; give the same columns in the same order")
        if mean := known.get(f"{side}_mean"):
            std = known[f"{side}_std"]
            scale |= {f"{side}_mean": mean, f"{side}_std": std}
            for split in (split for split in splits.values() if side in split):
                split[side] = (split[side].astype(np.float64) - np.array(mean)) / np.array(std)
    return scale


def read_pairs(
    files: list[str], x_columns: list[str] | None, y_columns: list[str] | None, *reading, option: str = "--pairs"
) -> tuple:
    """x [N, Dx] and y [N, Dy] from two tables, or from the columns of one .csv, and the names of their columns."""
    if len(files) == 1 and not files[0].lower().endswith(NAMED):
        raise ValueError(f"{option} {files[0]}: give X.npy and Y.npy, or one .csv with --x-columns and --y-columns")
    if len(files) > 2:
        raise ValueError(f"{option} takes one or two files, not {len(files)}")
    if len(files) == 1 and not (x_columns and y_columns):
        raise ValueError(f"{option} {files[0]}: name the columns with --x-columns and --y-columns")
    if len(files) == 1 and (both := [name for name in x_columns or () if name in y_columns]):
        raise ValueError(
            f"column {both[0]!r} is in --x-columns and in --y-columns; what is to be predicted is no input"
        )
    x, x_names = read_table(Path(files[0]), x_columns, *reading)
    y, y_names = read_table(Path(files[-1]), y_columns, *reading)
    if len(x) != len(y):
        raise ValueError(f"{files[0]} has {len(x)} rows and {files[1]} {len(y)}; pairs need equally many")
    if long := [name for name in (*(x_names or ()), *(y_names or ())) if not is_name(name)]:
        raise ValueError(f"column {long[0][:40]!r}... has {len(long[0])} signs; rename it, to {LONGEST_NAME} at most")
    refuse_targets_among_inputs(x, y, x_names or [], y_names or [])
    return x, y, x_names, y_names


def refuse_targets_among_inputs(x: np.ndarray, y: np.ndarray, x_names: list[str], y_names: list[str]) -> None:
    """ValueError for a column of the same name and the same values in both; names are empty where there are none."""
    inputs = dict(zip(x_names, x.T, strict=bool(x_names)))
    for name, column in zip(y_names, y.T, strict=bool(y_names)):
        if name in inputs and np.array_equal(inputs[name], column):
            raise ValueError(f"column {name!r} is the same in x and in y; what is to be predicted is no input")


def split_pairs(options: argparse.Namespace, x: np.ndarray, y: np.ndarray) -> dict:
    """train_paired, val and test; splits whose share is zero are left out."""
    given = {"groups": options.group_column, "times": options.time_column}
    if all(given.values()):
        raise ValueError("--group-column and --time-column split the same pairs; give one of them")
    cells = {
        kind: labels(Path(options.pairs[0]), column, f"--{kind[:-1]}-column", options.encoding)
        for kind, column in given.items()
        if column
    }
    test = 0.0 if options.test_pairs else options.test_fraction
    parts = split_rows(len(x), options.val_fraction, test, np.random.default_rng(options.seed), **cells)
    return {name: {"x": x[rows], "y": y[rows]} for name, rows in parts.items()}


def test_pairs(options: argparse.Namespace, train: dict[str, np.ndarray], *names: list[str] | None) -> dict:
    """x and y of --test-pairs; ValueError in one line unless they have the columns of the pairs."""
    reading = options.encoding, options.decimal_comma
    x, y, *found = read_pairs(options.test_pairs, options.x_columns, options.y_columns, *reading, option="--test-pairs")
    for side, rows, titles, expected in (("x", x, found[0], names[0]), ("y", y, found[1], names[1])):
        if rows.shape[1] != train[side].shape[1] or titles != expected:
            told = ", ".join(titles or [f"{rows.shape[1]} columns"])
            raise ValueError(f"--test-pairs {options.test_pairs[0]}: {side} is {told}, other than in the pairs")
    return {"x": x, "y": y}


def standardise(
    splits: dict, x_names: list[str] | None, y_names: list[str] | None, sides: str = "xy"
) -> dict[str, list[float]]:
    """Scale these sides of every split in place by the mean and deviation of train_x and train_y; returns them.

    Columns are divided by a power of 2 first, so that squares of 1e300 and 1e-300 can be summed.
    """
    scale = {}
    for side, titles in (("x", x_names), ("y", y_names)):
        if side not in sides:
            continue
        train = splits[f"train_{side}"][side]
        rounding = ROUNDING * np.finfo(train.dtype).eps
        train = train.astype(np.float64)
        unit = np.ldexp(1.0, np.clip(np.frexp(np.abs(train).max(0))[1], -1020, 1020))
        mean, std = (train / unit).mean(0), (train / unit).std(0)
        if len(constant := np.flatnonzero(std <= rounding * np.abs(train / unit).max(0))):
            title = titles[constant[0]] if titles else constant[0] + 1
            raise ValueError(f"column {title} of {side} is constant in training, but for rounding; leave it out")
        for split in splits.values():
            if side in split:
                split[side] = (split[side].astype(np.float64) / unit - mean) / std
        scale |= {f"{side}_mean": (mean * unit).tolist(), f"{side}_std": (std * unit).tolist()}
    return scale


def check_float32(splits: dict, x_names: list[str] | None, y_names: list[str] | None) -> None:
    """ValueError for a column that float32, in which rows are stored, cannot hold, or makes constant."""
    for split, sides in splits.items():
        for side, values in sides.items():
            titles = {"x": x_names, "y": y_names}[side]
            with np.errstate(over="ignore"):
                stored = values.astype(np.float32)
            lost = ~np.isfinite(stored).all(0) | ((np.ptp(stored, 0) == 0) & (np.ptp(values / 2, 0) > 0))
            if len(columns := np.flatnonzero(lost)):
                title = titles[columns[0]] if titles else columns[0] + 1
                raise ValueError(f"column {title} of {side} in {split} does not fit in float32; let it be standardised")
