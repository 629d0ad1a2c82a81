"""Tables of numbers: each value in its column, or one line that names the file, the line and the column."""

import io
import random
import zipfile

import numpy as np
import pytest

from datamodules.number_table import read_table
from datamodules.prepare.__main__ import main
from datamodules.prepare.table import check_float32, read_pairs, standardise


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1), (" -2.5 ", -2.5), ("+.5", 0.5), ("3.", 3), ("1e3", 1000), ("-1E-3", -0.001), ("0e999", 0), ('"7"', 7)],
)
def test_numbers(tmp_path, text, value):
    (tmp_path / "t.csv").write_text(f"a,b\n0,{text}\n")
    table, titles = read_table(tmp_path / "t.csv", None)
    assert (table.tolist(), titles) == ([[0, value]], ["a", "b"])


NO_NUMBERS = [
    "",
    "nan",
    "NaN",
    "inf",
    "-Infinity",
    "1e400",
    "1_000",
    "1 000",
    "1'000",
    "0x10",
    "1d5",
    "\u0661\u0662",
    "\uff15",
]
NO_NUMBERS += ["NA", "null", "true", "1.2.3", "--1", "1-", "5%", "\u22121"]


@pytest.mark.parametrize("cell", NO_NUMBERS)
@pytest.mark.parametrize("comma", [False, True])
def test_what_is_no_number_is_refused_by_line_and_column(tmp_path, cell, comma):
    (tmp_path / "t.csv").write_text(f"a;b\n0;1\n0;{cell}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"t\.csv: line 3, column b is .*, (not a number|beyond float64)") as error:
        read_table(tmp_path / "t.csv", None, None, comma)
    assert "\n" not in str(error.value)


def test_decimal_commas_are_read_when_asked_for_and_thousands_never(tmp_path):
    (tmp_path / "t.csv").write_text("a;b\n1,5;2\n-0,25;3,0e1\n")
    assert read_table(tmp_path / "t.csv", None, None, True)[0].tolist() == [[1.5, 2], [-0.25, 30]]
    with pytest.raises(ValueError, match=r"line 2, column a is '1,5', not a number; .*--decimal-comma"):
        read_table(tmp_path / "t.csv", None)
    for cell in ("1.234,5", "1,234,567"):
        (tmp_path / "t.csv").write_text(f"a;b\n{cell};2\n")
        for comma in (False, True):
            with pytest.raises(ValueError, match=f"line 2, column a is '{cell}', not a number; write 1234.5"):
                read_table(tmp_path / "t.csv", None, None, comma)


@pytest.mark.parametrize("seed", range(20))
def test_columns_are_found_by_name_in_any_order(tmp_path, seed):
    rng = random.Random(seed)
    names, values = list("abcdef"), np.random.default_rng(seed).normal(size=(7, 6)) * 10.0 ** rng.randint(-9, 9)
    order, wanted = rng.sample(range(6), 6), rng.sample(names, rng.randint(1, 6))
    lines = [",".join(names[i] for i in order), *(",".join(repr(float(row[i])) for i in order) for row in values)]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    table, titles = read_table(tmp_path / "t.csv", wanted)
    assert titles == wanted
    np.testing.assert_array_equal(table, values[:, [names.index(name) for name in wanted]])


@pytest.mark.parametrize(
    ("content", "columns", "message"),
    [
        ("width,height\n1,2\n", ["width", "hight"], "no column 'hight', only width, height; nearest: height"),
        ("a,b\n1,2\n", ["a", "a"], "column 'a' is named twice"),
        ("1,2\n3,4\n", None, "the first line holds numbers; write the names"),
        ("a,b\n", None, "no rows"),
        ("", None, "is empty"),
        ("a\n1\n\n3\n", None, "line 3 is blank"),
        ("a,\n1,2\n", None, "no column ''"),
    ],
)
def test_tables_that_are_ambiguous_are_refused(tmp_path, content, columns, message):
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_table(tmp_path / "t.csv", columns)


def test_blank_lines_at_the_end_are_none(tmp_path):
    (tmp_path / "t.CSV").write_text("a\n1\n3\n\n \n")
    assert read_table(tmp_path / "t.CSV", None)[0].tolist() == [[1], [3]]


def archive():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("xl/workbook.xml", "<x/>")
    return buffer.getvalue()


def stored(array, save=np.save):
    buffer = io.BytesIO()
    save(buffer, array)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.npz", stored(np.ones((3, 2)), np.savez), "expected .npy, .csv, .tsv or .parquet; save one array"),
        ("x.xlsx", archive(), "expected .npy, .csv, .tsv or .parquet; export the sheet"),
        ("x.txt", b"a,b\n1,2\n", "expected .npy, .csv, .tsv or .parquet"),
        ("x.npy", stored(np.ones((3, 2)), np.savez), "not a plain .npy"),
        ("x.npy", archive(), "not a plain .npy"),
        ("x.npy", stored(np.ones((3, 2)))[:-1], "not a plain .npy"),
        ("x.npy", stored(np.ones((3, 2), complex)), "not a plain .npy"),
        ("x.npy", stored(np.ones((3, 2, 1))), "expected numbers of shape"),
        ("x.npy", stored(np.ones((0, 2))), "expected numbers of shape"),
        ("x.csv", archive(), "x.csv is not UTF-8 text|x.csv"),
        ("x.csv", "a\nä\n".encode("latin-1"), "x.csv is not UTF-8 text: .* line 2; .*--encoding"),
    ],
)
def test_files_of_other_kinds_are_one_line_that_names_them(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_table(tmp_path / name, None)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_a_target_is_no_input(tmp_path):
    (tmp_path / "t.csv").write_text("a,b,c\n1,2,3\n")
    with pytest.raises(ValueError, match="column 'b' is in --x-columns and in --y-columns"):
        read_pairs([str(tmp_path / "t.csv")], ["a", "b"], ["b", "c"])


def test_a_target_of_another_file_is_no_input_either(tmp_path):
    """Nor of the same file named twice; a column of the same name and of other values is another quantity."""
    for name, second in (("inputs", 2), ("copy", 2), ("other", 3)):
        (tmp_path / f"{name}.csv").write_text(f"a,b\n1.5,{second}\n4,5\n")
    inputs, copy, other = (str(tmp_path / f"{name}.csv") for name in ("inputs", "copy", "other"))
    for targets in (inputs, copy):
        for columns in (None, ["b"]):
            with pytest.raises(ValueError, match=r"column '[ab]' is the same in x and in y"):
                read_pairs([inputs, targets], None, columns)
    read_pairs([inputs, other], None, ["b"])
    read_pairs([inputs, copy], ["a"], ["b"])


@pytest.mark.parametrize("side", ["x", "y"])
def test_a_name_that_no_reader_would_take_is_refused_before_anything_is_written(tmp_path, capsys, side):
    def built(length: int) -> int:
        names = {"x": "a", "y": "b"} | {side: "n" * length}
        table = tmp_path / "t.csv"
        table.write_text(f"{names['x']},{names['y']}\n" + "".join(f"{i},{i * i}\n" for i in range(9)))
        columns = ["--x-columns", names["x"], "--y-columns", names["y"]]
        return main(["table", "--pairs", str(table), *columns, "--out", str(tmp_path / f"out{length}")])

    assert built(200) == 0
    assert main(["check", str(tmp_path / "out200")]) == 0
    capsys.readouterr()
    assert built(201) == 2
    error = capsys.readouterr().err
    assert "has 201 signs; rename it, to 200 at most" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out201").exists()


def test_an_empty_table_is_called_empty(tmp_path):
    (tmp_path / "t.csv").write_text("\n\n")
    with pytest.raises(ValueError, match=r"t\.csv is empty; its first line must hold the names"):
        read_table(tmp_path / "t.csv", None)


def sides(x):
    return {"train_x": {"x": x}, "train_y": {"y": np.arange(len(x), dtype=np.float64)[:, None]}, "val": {"x": x[:5]}}


@pytest.mark.parametrize("magnitude", [5e-324, 1e-300, 1e-20, 0.1, 1.0, 1e9, 1e20, 1e300, 1.7e308, 0.0])
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_column_that_is_constant_but_for_rounding_is_refused(magnitude, sign):
    steps = np.random.default_rng(0).integers(-1, 2, (1000, 1))
    constant = np.full((1000, 1), sign * magnitude)
    tolerable = [constant] if magnitude < 1e-300 else [constant, constant * (1 + steps * np.finfo(float).eps / 2)]
    for column in tolerable:
        with pytest.raises(ValueError, match="column a of x is constant in training, but for rounding"):
            standardise(sides(column), ["a"], None)


def test_noise_below_the_last_place_and_float32_s_rounding_are_no_variation():
    noise = np.random.default_rng(0).normal(size=(1000, 1))
    single = np.float32(0.1) + np.spacing(np.float32(0.1)) * np.sign(noise).astype(np.float32)
    for column in (1e9 + 1e-7 * noise, single):
        with pytest.raises(ValueError, match="column 1 of x is constant"):
            standardise(sides(column), None, None)


@pytest.mark.parametrize("magnitude", [1e-300, 1e-160, 1e-3, 1.0, 1e9, 1e160, 1e300])
@pytest.mark.parametrize("share", [1e-4, 1.0])
def test_a_column_that_varies_is_scaled_at_any_magnitude(magnitude, share):
    noise = np.random.default_rng(0).normal(size=(1000, 1))
    x = magnitude * (1 + share * noise)
    splits = sides(x.copy())
    scale = standardise(splits, None, None)
    np.testing.assert_allclose(splits["train_x"]["x"], (noise - noise.mean()) / noise.std(), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(splits["val"]["x"] * scale["x_std"] + scale["x_mean"], x[:5], rtol=1e-12)
    check_float32(splits, None, None)


@pytest.mark.parametrize(
    ("column", "lost"),
    [
        (np.array([1.0, 2.0]), False),
        (np.array([3.0, 3.0]), False),
        (np.array([1e-30, 2e-30]), False),
        (np.array([1e39, 1.0]), True),
        (np.array([1e-60, 2e-60]), True),
        (np.array([1.7e9, 1.7e9 + 1]), True),
        (np.array([-1.7e308, 1.7e308]), True),
    ],
)
def test_what_float32_would_lose_is_refused(column, lost):
    splits = {"train_x": {"x": column[:, None]}}
    if lost:
        with pytest.raises(ValueError, match="t of x in train_x does not fit in float32; let it be standardised"):
            check_float32(splits, ["t"], None)
    else:
        check_float32(splits, ["t"], None)
