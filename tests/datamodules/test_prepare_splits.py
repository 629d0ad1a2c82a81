"""`prepare table` by groups, by time and with pairs of its own for the test: nothing of one split is in another."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from datamodules.prepare.__main__ import main
from datamodules.prepare.pair_splits import split_rows
from datamodules.vector_shards import ShardFolder

SPLITS = ("train_paired", "val", "test")
COLUMNS = ["--x-columns", "a", "--y-columns", "b", "--no-standardise"]


@pytest.fixture
def table(tmp_path, monkeypatch):
    """90 rows, a = row number; 9 firms; a day for every two rows, in no order."""
    monkeypatch.chdir(tmp_path)
    lines = [
        f"{row},{row * 2 + 1},firm {row % 9},2024-{1 + row // 2 // 28:02d}-{1 + row // 2 % 28:02d}" for row in range(90)
    ]
    order = np.random.default_rng(0).permutation(90)
    Path("pairs.csv").write_text("\n".join(["a,b,firm,day", *(lines[row] for row in order)]))
    Path("later.csv").write_text("a,b\n100,201\n101,203\n")
    return tmp_path


def rows(split):
    found = ShardFolder("out").open(split).x
    return found.take(np.arange(len(found)))[:, 0].astype(int)


def test_a_group_is_in_one_split(table):
    assert main(["table", "--pairs", "pairs.csv", *COLUMNS, "--group-column", "firm", "--out", "out"]) == 0
    firms = {split: {row % 9 for row in rows(split)} for split in SPLITS}
    assert not any(firms[one] & firms[other] for one, other in combinations(SPLITS, 2))
    assert sorted(np.concatenate([rows(split) for split in SPLITS])) == list(range(90))
    assert [len(firms[split]) for split in SPLITS] == [5, 2, 2]


@pytest.mark.parametrize("column", ["day", "a"])
def test_time_runs_from_training_to_test(table, column):
    assert main(["table", "--pairs", "pairs.csv", *COLUMNS, "--time-column", column, "--out", "out"]) == 0
    train, val, test = (rows(split) for split in SPLITS)
    assert train.max() < val.min() <= val.max() < test.min()
    assert (len(train), len(val), len(test)) == (54, 18, 18)


def test_rows_of_one_time_are_never_parted():
    times = [str(number // 7) for number in range(70)]
    parts = split_rows(70, 0.25, 0.25, np.random.default_rng(0), times=times)
    assert all(len({times[row] for row in rows}) * 7 == len(rows) for rows in parts.values())


def test_pairs_of_the_test_are_no_others(table):
    assert main(["table", "--pairs", "pairs.csv", *COLUMNS, "--test-pairs", "later.csv", "--out", "out"]) == 0
    assert rows("test").tolist() == [100, 101]
    assert sorted([*rows("train_paired"), *rows("val")]) == list(range(90))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--group-column", "firm", "--time-column", "day"], "give one of them"),
        (["--group-column", "town"], "no column 'town'"),
        (["--time-column", "firm"], "--time-column holds 'firm"),
        (["--group-column", "one"], "1 group leave none for"),
        (["--group-column", "gap"], "--group-column gap: row 3 of gap.csv is empty there"),
        (["--test-pairs", "x.npy"], "--test-pairs x.npy: give X.npy and Y.npy"),
        (["--test-pairs", "x.npy", "x.npy"], "x.npy: 2 columns, but 1 names (a)"),
    ],
)
def test_a_mistake_is_one_line(table, capsys, arguments, message):
    file = "gap.csv" if "gap" in arguments else "pairs.csv"
    Path("gap.csv").write_text("a,b,gap\n1,2,q\n2,3,r\n3,5,\n")
    text = Path("pairs.csv").read_text().splitlines()
    Path("pairs.csv").write_text("\n".join([text[0] + ",one", *(line + ",1" for line in text[1:])]))
    np.save("x.npy", np.ones((4, 2)))
    assert main(["table", "--pairs", file, *COLUMNS, *arguments, "--out", "out"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not Path("out").exists()


def test_arrays_have_no_columns_to_split_by(table, capsys):
    np.save("x.npy", np.arange(8.0))
    assert main(["table", "--pairs", "x.npy", "x.npy", "--group-column", "a", "--out", "out"]) == 2
    assert "x.npy has no names of columns" in capsys.readouterr().err


def test_the_tests_arrays_have_the_columns_of_the_pairs(table, capsys):
    np.save("x.npy", np.arange(8.0))
    np.save("wide.npy", np.ones((4, 2)))
    assert main(["table", "--pairs", "x.npy", "x.npy", "--test-pairs", "wide.npy", "x.npy", "--out", "out"]) == 2
    assert "wide.npy has 4 rows and x.npy 8" in capsys.readouterr().err
    assert main(["table", "--pairs", "x.npy", "x.npy", "--test-pairs", "wide.npy", "wide.npy", "--out", "out"]) == 2
    assert "--test-pairs wide.npy: x is 2 columns, other than in the pairs" in capsys.readouterr().err
