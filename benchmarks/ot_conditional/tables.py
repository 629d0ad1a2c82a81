"""Two more real tables for the comparison, from the data of the ISLP package (its wheel; nothing is installed).

    pip download --no-deps --dest data/wheels ISLP==0.6.0
    python benchmarks/ot_conditional/tables.py --wheel data/wheels/islp-0.6.0-py3-none-any.whl --out data

bikes   hourly rentals of Capital Bikeshare, 2011: x (8) sine and cosine of the hour and of the day of the year, working
        day, temperature, humidity, wind; y (2) the logarithms of casual and of registered rentals, each count with
        uniform noise over its step. Weeks of the year: week % 5 == 4 is test, == 3 val, the rest train.
shares  the New York Stock Exchange, days of 1962 to 1986: x (5) return, log volume, log volatility of a day, means of
        the first two over five days; y (2) return and log volume of the next day, with noise over their last digit.
        Blocks of 40 trading days: block % 5 == 4 is test, == 3 val; a row whose days lie in two blocks is dropped.

Standardised by the training rows. 1024 training rows are pairs; of the others one half gives x only, the other y only.
"""

import argparse
import csv
import io
import sys
import zipfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from datamodules.prepare.shard_writing import Description, write_folder
from datamodules.prepare.weather import nearest

PAIRED, GROUPS = 1024, 64
BLOCK, PAST = 40, 5  # days
BIKE_X = ["sin_hour", "cos_hour", "sin_day", "cos_day", "workingday", "temp", "hum", "windspeed"]
SHARE_X = ["return", "log_volume", "log_volatility", "mean_return", "mean_log_volume"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("data"))
    arguments = parser.parse_args()
    with zipfile.ZipFile(arguments.wheel) as wheel:
        for name, file, make, *titles in (
            ("bikes", "Bikeshare", bikes, BIKE_X, ["log_casual", "log_registered"]),
            ("shares", "NYSE", shares, SHARE_X, ["next_return", "next_log_volume"]),
        ):
            rows = list(csv.DictReader(io.StringIO(wheel.read(f"ISLP/data/{file}.csv").decode())))
            rng = np.random.default_rng(0)
            splits, scale = split(*make(rows, rng), rng)
            about = Description(name, "see ISLP", "python benchmarks/ot_conditional/tables.py", *titles, **scale)
            write_folder(arguments.out / name, splits, about, overwrite=False)


def bikes(rows: list[dict[str, str]], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x [N, 8], y [N, 2] and the block of every row."""
    hour, day, working, temp, hum, wind, casual, registered = (
        np.array([float(row[name]) for row in rows])
        for name in ("hr", "day", "workingday", "temp", "hum", "windspeed", "casual", "registered")
    )
    angles = 2 * np.pi * np.stack([hour / 24, (day - 1) / 365.25])
    waves = [wave(angle) for angle in angles for wave in (np.sin, np.cos)]
    counts = np.column_stack([casual, registered])
    y = np.log(1 + counts + rng.uniform(size=counts.shape))
    return np.column_stack([*waves, working, temp, hum, wind]), y, (day - 1) // 7


def shares(rows: list[dict[str, str]], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x [N, 5], y [N, 2] and the block of every row."""
    names = ("DJ_return", "log_volume", "log_volatility")
    values = np.array([[float(row[name]) for name in names] for row in rows])
    values[:, :2] += rng.uniform(-5e-7, 5e-7, (len(values), 2))
    today = np.arange(PAST - 1, len(values) - 1)
    today = today[(today + 1) // BLOCK == (today - PAST + 1) // BLOCK]
    means = np.stack([values[today - back, :2] for back in range(PAST)]).mean(0)
    return np.column_stack([values[today], means]), values[today + 1, :2], today // BLOCK


def split(x: np.ndarray, y: np.ndarray, block: np.ndarray, rng: np.random.Generator) -> tuple[dict, dict]:
    """The splits as arrays, and the means and deviations that were taken out of them."""
    role = block % 5
    train, val, test = (rng.permutation(np.flatnonzero(found)) for found in (role < 3, role == 3, role == 4))
    scale = {}
    for side, values in (("x", x), ("y", y)):
        scale |= {f"{side}_mean": values[train].mean(0), f"{side}_std": values[train].std(0)}
    x, y = ((values - scale[f"{side}_mean"]) / scale[f"{side}_std"] for side, values in (("x", x), ("y", y)))
    paired, only_x, only_y = train[:PAIRED], train[PAIRED::2], train[PAIRED + 1 :: 2]
    probe = nearest(x[test[:GROUPS]], x[test])
    splits = {
        "train_paired": {"x": x[paired], "y": y[paired]},
        "val": {"x": x[val], "y": y[val]},
        "test": {"x": x[test], "y": y[test]},
        "train_x": {"x": x[only_x]},
        "train_y": {"y": y[only_y]},
        "probe": {"x": x[test][probe], "y": y[test][probe]},
    }
    return splits, {name: value.tolist() for name, value in scale.items()}


if __name__ == "__main__":
    main()
