"""Prepared data: the plans against POT, the roll against its moments, the weather against the readings."""

import csv
import json
import subprocess
import sys
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import ot
import pytest

from datamodules.prepare import swiss_roll, weather
from datamodules.prepare.__main__ import main
from datamodules.vector_shards import ShardFolder

DATA = Path(__file__).parents[2] / "data"


def rows(folder, split, side):
    opened = ShardFolder(str(folder)).open(split)
    return getattr(opened, side).take(np.arange(opened.group_sizes.sum()))


def test_the_command_line_starts_without_torch():
    code = (
        "import sys; from datamodules.prepare.__main__ import parser; parser();"
        "print(sorted({'torch', 'lightning', 'webdataset', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=DATA.parent, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["swiss_roll", "weather"])
def test_the_committed_shards_are_whole(name):
    assert main(["check", str(DATA / name)]) == 0
    assert sum(file.stat().st_size for file in (DATA / name).iterdir()) < 2e6


def test_plans_equal_pots():
    rng = np.random.default_rng(0)
    cost = swiss_roll.rotation_cost(rng.standard_normal((6, 64, 2)), swiss_roll.swiss_roll(rng, 6, 64))
    plans, residuals = swiss_roll.entropic_plans(cost, tolerance=1e-11)
    uniform = np.full(64, 1 / 64)
    for plan, one in zip(plans, cost, strict=True):
        expected = ot.sinkhorn(uniform, uniform, one, 0.05, method="sinkhorn_log", numItermax=50_000, stopThr=1e-12)
        np.testing.assert_allclose(plan, expected, atol=1e-9)
    assert residuals.max() < 1e-11
    shifted, _ = swiss_roll.entropic_plans(cost + 1000 * np.arange(64)[:, None] + 500 * np.arange(64), tolerance=1e-11)
    np.testing.assert_allclose(shifted, plans, atol=1e-9)  # although exp(-cost / 0.05) is zero almost everywhere


def test_a_plan_that_does_not_converge_is_an_error():
    cost = np.random.default_rng(0).random((1, 64, 64))
    with pytest.raises(ValueError, match="misses its marginals"):
        swiss_roll.entropic_plans(cost, reg=1e-4, tolerance=1e-14, max_iterations=50)


def test_the_cost_is_the_smaller_of_the_two_turned_distances():
    x, y = np.array([[1.0, 2.0]]), np.array([[3.0, 4.0], [2.0, -1.0], [-2.0, 1.0]])
    expected = [min(abs(1 + 2j - (a + b * 1j) * turn) for turn in (1j, -1j)) for a, b in y]
    np.testing.assert_allclose(swiss_roll.rotation_cost(x, y)[0], expected, atol=1e-12)
    assert expected[1:] == [0, 0]  # a turn either way costs nothing: two modes


def test_indices_are_drawn_in_proportion_to_their_weights():
    weights = np.array([1.0, 0.0, 2.0, 5.0])
    drawn = swiss_roll.sample_index(np.tile(weights, (40_000, 1)), np.random.default_rng(0))
    shares = np.bincount(drawn, minlength=4) / 40_000
    np.testing.assert_allclose(shares, weights / 8, atol=4 * 0.5 / 200)
    assert shares[1] == 0


def roll_moments() -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the roll by quadrature over its angle."""
    t = np.linspace(1.5 * np.pi, 4.5 * np.pi, 200_001)
    curve = np.stack([t * np.cos(t), t * np.sin(t)]) / 7.5
    mean = curve.mean(axis=1)
    return mean, curve @ curve.T / len(t) - np.outer(mean, mean) + (0.8 / 7.5) ** 2 * np.eye(2)


def test_swiss_roll_marginals_have_their_moments():
    mean, covariance = roll_moments()
    paired_y = [rows(DATA / "swiss_roll", split, "y") for split in ("train_paired", "val", "test")]
    for y in (rows(DATA / "swiss_roll", "train_y", "y"), np.concatenate(paired_y)):
        error = np.sqrt(np.diag(covariance) / len(y))
        assert (np.abs(y.mean(axis=0) - mean) < 4 * error).all()
        np.testing.assert_allclose(np.cov(y.T), covariance, atol=6 / np.sqrt(len(y)))
    for split in ("train_x", "train_paired", "test"):
        x = rows(DATA / "swiss_roll", split, "x")
        assert (np.abs(x.mean(axis=0)) < 4 / np.sqrt(len(x))).all()
        np.testing.assert_allclose(np.cov(x.T), np.eye(2), atol=6 / np.sqrt(len(x)))


def test_swiss_roll_pairs_and_probes_follow_the_plan():
    """Coupled x and y are near a quarter turn of each other, either way; shuffled ones are not."""
    x, y = rows(DATA / "swiss_roll", "test", "x"), rows(DATA / "swiss_roll", "test", "y")

    def mean_cost(a, b):
        return np.mean([swiss_roll.rotation_cost(p[None], q[None])[0, 0] for p, q in zip(a, b, strict=True)])

    assert mean_cost(x, y) < 0.6 * mean_cost(x, np.roll(y, 1, axis=0))
    turn = np.sign(x[:, 0] * y[:, 1] - x[:, 1] * y[:, 0])
    assert abs(turn.mean()) < 4 / np.sqrt(len(turn))  # both modes, equally often
    probe_x = rows(DATA / "swiss_roll", "probe", "x").reshape(67, 256, 2)
    probe_y = rows(DATA / "swiss_roll", "probe", "y").reshape(67, 256, 2)
    assert (probe_x == probe_x[:, :1]).all()
    assert probe_x[-3:, 0].tolist() == [[-2, 0], [2, 2], [0, 0]]
    assert mean_cost(probe_x[:64, 0], probe_y[:64, 0]) < 0.6 * mean_cost(
        probe_x[:64, 0], np.roll(probe_y[:64, 0], 1, axis=0)
    )
    fresh = swiss_roll.probe_draws(np.array([-2.0, 0.0]), 200, np.random.default_rng(0), [])
    for draws in (probe_y[-3], fresh):  # y at x = (-2, 0) lies above or below, not left or right
        assert np.mean(np.abs(draws[:, 1]) > np.abs(draws[:, 0])) > 0.9


def test_swiss_roll_is_built_from_its_seed():
    sizes = {"train_paired": 5, "val": 2, "test": 3, "unpaired": 7, "probes": 2, "draws": 4}
    (first, audit), (second, _), (other, _) = (swiss_roll.build(seed, sizes) for seed in (0, 0, 1))
    assert audit["plans"] == 5 + 2 + 3 + (2 + 3) * 4
    assert audit["max_residual"] < 1e-7
    for split, sides in first.items():
        for side, array in sides.items():
            assert np.array_equal(array, second[split][side])
    assert not np.array_equal(first["train_y"]["y"], other["train_y"]["y"])
    assert first["probe"]["y"].shape == (5, 4, 2)


READINGS = ("temp", "dewp", "wind_speed", "pressure")
HALF_STEP = np.array([0.5 + 0.0901, 0.5 + 0.0901, 2.5 * 1.15078, 0.05])  # of the readings as the table rounds them


def test_weather_pairs_are_twelve_hours_apart():
    """Test rows of ISO week 9 are found again among the readings of that week, 12 hours apart, within the rounding."""
    with open(Path(__file__).with_name("weather_week_9.csv"), newline="") as file:
        table = {(row["origin"], row["time_hour"]): row for row in csv.DictReader(file)}
    index = json.loads((DATA / "weather" / "index.json").read_text())
    x = rows(DATA / "weather", "test", "x") * np.array(index["x_std"]) + index["x_mean"]
    y = rows(DATA / "weather", "test", "y") * np.array(index["y_std"]) + index["y_mean"]
    hour = np.round(np.arctan2(x[:, 4], x[:, 5]) * 24 / (2 * np.pi)).astype(int) % 24
    day = np.round(np.arctan2(x[:, 6], x[:, 7]) * 365.25 / (2 * np.pi)).astype(int) % 366
    found = 0
    for row in range(len(x)):
        time = datetime(2013, 1, 1) + timedelta(days=int(day[row]), hours=int(hour[row]) + 5)
        if (time - timedelta(hours=5)).isocalendar().week != 9:
            continue
        later = time + timedelta(hours=12)
        matches = 0
        for origin in ("EWR", "JFK", "LGA"):
            ends = [table.get((origin, f"{moment:%Y-%m-%dT%H}:00:00Z")) for moment in (time, later)]
            if None in ends or any(end[name] == "NA" for end in ends for name in READINGS):
                continue
            now, then = (np.array([float(end[name]) for name in READINGS]) for end in ends)
            near = (np.abs(x[row, :4] - now) <= HALF_STEP + 1e-3) & (np.abs(y[row] - then) <= HALF_STEP + 1e-3)
            matches += near.all()
        assert matches >= 1
        found += 1
    assert found > 100


def test_weather_probes_are_the_nearest_test_rows():
    x = rows(DATA / "weather", "probe", "x").reshape(64, 64, 8)
    test_x = rows(DATA / "weather", "test", "x")
    radius = np.linalg.norm(x - x[:, :1], axis=2)
    assert (np.diff(radius, axis=1) >= -1e-5).all()
    for group in range(64):
        distance = np.linalg.norm(test_x - x[group, 0], axis=1)
        assert (distance < radius[group, -1] - 1e-5).sum() <= 63  # nothing nearer was left out


def weather_table(path: Path, hours: int = 24 * 7 * 20) -> Path:
    """A table like the real one in which every reading tells its hour: pressure = 900 + 0.1 * hour, 2 stations."""
    start = datetime(2013, 1, 7, 5)  # Monday midnight EST, ISO week 2
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["origin", "temp", "dewp", "wind_speed", "pressure", "time_hour"])
        for station, offset in (("EWR", 0.0), ("JFK", 0.0)):
            for hour in range(hours):
                if hour % 50 == 49:
                    continue  # a missing row
                wind = 1048.36 if hour == 60 and station == "JFK" else 1.15078 * (3 + hour % 5)
                pressure = "NA" if hour % 50 == 20 else f"{900 + 0.1 * hour + offset:.1f}"
                time = start + timedelta(hours=hour)
                writer.writerow([station, 32 + hour % 30, 14 + hour % 20, wind, pressure, f"{time:%Y-%m-%dT%H:%M:%S}Z"])
    return path


def test_weather_splits_are_whole_weeks_without_leaks(tmp_path, capsys):
    table = weather_table(tmp_path / "weather.csv")
    assert main(["weather", "--csv", str(table), "--out", str(tmp_path / "weather")]) == 0
    assert "outliers wind above 150 mph: 1" in capsys.readouterr().out
    index = json.loads((tmp_path / "weather" / "index.json").read_text())
    assert index["notes"]["dropped_because_incomplete"] == 2 * len([h for h in range(24 * 7 * 20) if h % 50 == 20])

    def hour(split, side):
        column = rows(tmp_path / "weather", split, side)[:, 3].astype(float)
        return np.round(10 * (column * index[f"{side}_std"][3] + index[f"{side}_mean"][3] - 900)).astype(int)

    weeks = {"train_paired": {0, 3, 4}, "val": {1}, "test": {2}}  # the table begins with ISO week 2
    for split, allowed in weeks.items():
        now, later = hour(split, "x"), hour(split, "y")
        assert (later - now == 12).all()
        assert (now // 168 == later // 168).all()
        assert set((now // 168 % 5).tolist()) == allowed
    whole = {(s, h) for s in "EJ" for h in range(24 * 7 * 20) if h % 50 not in (20, 49) and (s, h) != ("J", 60)}
    starts = [h for s, h in whole if (s, h + 12) in whole and h // 168 == (h + 12) // 168 and h // 168 % 5 in (0, 3, 4)]
    used = np.concatenate([hour("train_paired", "x"), hour("train_x", "x"), hour("train_y", "y") - 12])
    assert Counter(used.tolist()) == Counter(starts)  # each record serves once: as a pair, as x only, or as y only


def test_noise_stays_within_the_rounding():
    readings = np.array([[37.94, 71.6, 0.0, 1012.3], [39.02, 50.0, 3 * 1.15078, 999.9]] * 5000)
    noisy = weather.dequantise(readings, np.random.default_rng(0)).reshape(5000, 2, 4)
    low, high = noisy.min(axis=0), noisy.max(axis=0)
    knot = 1.15078  # 71.6 F is 22 C exactly and no whole F; 0 wind stands for less than 2.5 knots
    np.testing.assert_allclose(low, [[37.5, 70.7, 0.0, 1012.25], [38.5, 49.5, 2.5 * knot, 999.85]], atol=0.01)
    np.testing.assert_allclose(high, [[38.5, 72.5, 2.5 * knot, 1012.35], [39.5, 50.5, 3.5 * knot, 999.95]], atol=0.01)


@pytest.fixture
def user(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    x, y = rng.normal(5, 2, (50, 3)), rng.normal(-1, 3, (50, 2))
    y[:, 0] = x[:, 0]  # so that pairs can be recognised
    np.save("x.npy", x)
    np.save("y.npy", y)
    np.save("more_x.npy", rng.normal(5, 2, (70, 3)))
    with open("pairs.csv", "w") as file:
        file.write(
            "a,b,c,name,d,e\n"
            + "\n".join(
                ",".join(map(repr, map(float, p[:3]))) + ",n," + ",".join(map(repr, map(float, p[3:])))
                for p in np.hstack([x, y])
            )
        )
    return x, y


def test_a_table_from_arrays_or_csv(user):
    x, y = user
    arrays = ["table", "--pairs", "x.npy", "y.npy", "--unpaired-x", "more_x.npy", "--no-standardise"]
    assert main([*arrays, "--out", "arrays"]) == 0
    columns = ["--x-columns", "a,b,c", "--y-columns", "d,e", "--no-standardise"]
    assert main(["table", "--pairs", "pairs.csv", *columns, "--out", "csv"]) == 0
    for folder in ("arrays", "csv"):
        parts = {
            side: np.concatenate([rows(folder, s, side) for s in ("train_paired", "val", "test")]) for side in "xy"
        }
        assert np.array_equal(parts["x"][:, 0], parts["y"][:, 0])
        for side, whole in (("x", x), ("y", y)):
            assert np.array_equal(np.sort(parts[side], axis=0), np.sort(whole.astype(np.float32), axis=0))
        assert [len(rows(folder, s, "x")) for s in ("train_paired", "val", "test")] == [30, 10, 10]
    assert np.array_equal(rows("arrays", "train_x", "x"), np.load("more_x.npy").astype(np.float32))
    assert np.array_equal(rows("arrays", "train_y", "y"), rows("arrays", "train_paired", "y"))
    assert json.loads(Path("csv/index.json").read_text())["y_names"] == ["d", "e"]


def test_a_table_is_standardised_and_says_how_to_go_back(user):
    assert main(["table", "--pairs", "x.npy", "y.npy", "--out", "out"]) == 0
    index = json.loads(Path("out/index.json").read_text())
    train = rows("out", "train_x", "x")
    np.testing.assert_allclose([train.mean(0), train.std(0)], [[0] * 3, [1] * 3], atol=1e-5)
    test = rows("out", "test", "x") * np.array(index["x_std"]) + index["x_mean"]
    assert (np.abs(test[:, None] - user[0][None]).sum(axis=2).min(axis=1) < 1e-4).all()


def test_class_numbers_stay_as_they_are(user):
    np.save("labels.npy", np.arange(50) % 3)
    assert main(["table", "--pairs", "x.npy", "labels.npy", "--raw-y", "--out", "out"]) == 0
    assert set(rows("out", "train_paired", "y")[:, 0].tolist()) == {0, 1, 2}
    np.testing.assert_allclose(rows("out", "train_x", "x").mean(0), [0] * 3, atol=1e-5)
    index = json.loads(Path("out/index.json").read_text())
    assert index["y_mean"] is None
    assert len(index["x_std"]) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x.npy", "short.npy"], "x.npy has 50 rows and short.npy 49"),
        (["x.npy", "nan.npy"], "nan.npy: row 3, column 2 is nan"),
        (["x.npy", "objects.npy"], "objects.npy: not a plain .npy"),
        (["x.npy", "absent.npy"], "no file absent.npy"),
        (["x.npy"], "give X.npy and Y.npy"),
        (["pairs.csv"], "--x-columns"),
        (["pairs.csv", "--x-columns", "a,z", "--y-columns", "d"], "no column 'z', only a, b, c, name, d, e"),
        (["pairs.csv", "--x-columns", "a,name", "--y-columns", "d"], "line 2, column name is 'n', not a number"),
        (["x.npy", "y.npy", "--unpaired-y", "more_x.npy"], "more_x.npy: 3 columns, but y of the pairs has 2"),
        (["x.npy", "y.npy", "--val-fraction", "0.6", "--test-fraction", "0.4"], "less than 1"),
        (["x.npy", "y.npy", "--val-fraction", "nan"], "--val-fraction nan and --test-fraction 0.2 must be"),
        (["x.npy", "constant.npy"], "column 1 of y is constant"),
    ],
)
def test_bad_tables_are_one_line(user, capsys, arguments, message):
    y = user[1].copy()
    np.save("short.npy", y[:-1])
    np.save("constant.npy", y * [0, 1])
    y[2, 1] = np.nan
    np.save("nan.npy", y)
    np.save("objects.npy", np.array([[{}]] * 50, dtype=object), allow_pickle=True)
    assert main(["table", "--pairs", *arguments, "--out", "out"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert not Path("out").exists()
