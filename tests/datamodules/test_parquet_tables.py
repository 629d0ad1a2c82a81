"""Parquet tables of numbers, by a stand-in for pyarrow, which is no dependency; by pyarrow itself where it is there."""

import sys
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

from datamodules.number_table import read_table, titles_of


@pytest.fixture
def parquet(tmp_path, monkeypatch):
    """parquet(columns) -> path of a file that holds them, in two batches."""

    def column(values):
        return SimpleNamespace(to_pylist=lambda: list(values))

    def write(columns):
        def batches(columns_wanted):
            for part in (slice(0, 2), slice(2, None)):
                cells = {name: columns[name][part] for name in columns_wanted}
                yield SimpleNamespace(column=lambda name, cells=cells: column(cells[name]))

        schema = SimpleNamespace(names=list(columns))
        file = SimpleNamespace(schema_arrow=schema, iter_batches=lambda columns: batches(columns))
        stand_in = SimpleNamespace(ParquetFile=lambda path: nullcontext(file))
        monkeypatch.setitem(sys.modules, "pyarrow", SimpleNamespace(ArrowException=RuntimeError))
        monkeypatch.setitem(sys.modules, "pyarrow.parquet", stand_in)
        path = tmp_path / "t.parquet"
        path.write_bytes(b"PAR1")
        return path

    return write


def test_columns_are_found_by_name(parquet):
    path = parquet({"name": ["p", "q", "r"], "a": [1, 2, 3], "b": [0.5, 1.5, -2.5]})
    table, titles = read_table(path, ["b", "a"])
    assert (table.tolist(), titles) == ([[0.5, 1], [1.5, 2], [-2.5, 3]], ["b", "a"])
    assert table.dtype == np.float64
    assert titles_of(path) == ["name", "a", "b"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"a": [1, None, 3]}, "column a holds None, not a number"),
        ({"a": [1, float("nan"), 3]}, "column a holds nan, not a number"),
        ({"a": [True, 2, 3]}, "column a holds True, not a number"),
        ({"a": ["1", 2, 3]}, "column a holds '1', not a number"),
        ({"a": []}, "no rows"),
        ({"aa": [1]}, "no column 'a', only aa; nearest: aa"),
    ],
)
def test_what_is_no_number_is_one_line(parquet, columns, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_table(parquet(columns), ["a"])
    assert "\n" not in str(caught.value)


def test_without_pyarrow_and_damaged(parquet, monkeypatch):
    path = parquet({"a": [1]})

    def damaged(path):
        raise OSError("no magic bytes")

    monkeypatch.setattr(sys.modules["pyarrow.parquet"], "ParquetFile", damaged)
    with pytest.raises(ValueError, match=r"t\.parquet: not a readable parquet file \(no magic bytes\)"):
        read_table(path, None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"`pip install pyarrow`, or write a \.csv"):
        read_table(path, None)


def test_pyarrow_reads_what_it_wrote(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    write_table(pyarrow.table({"a": [1, 2], "b": [0.1, 0.2]}), tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet", ["b"])[0].tolist() == [[0.1], [0.2]]
