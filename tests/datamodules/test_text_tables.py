"""Tables and prompt files of users: what is read, and what is refused in a line that names the place."""

import csv
import io
import json
import random

import pytest

from datamodules.request_files import read_prompts as prompts_of_predict
from datamodules.text_tables import read_csv, read_json_lines
from fewstep.files.text_files import decode_text, numbered_lines, read_text

# What str.splitlines cuts at besides line ends.
OTHERS = ["\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]
ENDS = ["\n", "\r\n", "\r"]
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-32"]  # the last two write their marks


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("end", ENDS)
def test_prompts_and_json_lines_end_where_their_formats_say(tmp_path, encoding, end):
    prompts = [f"a{other}b für 日本 {number}" for number, other in enumerate(OTHERS)]
    (tmp_path / "p.txt").write_bytes(end.join(prompts).encode(encoding))
    assert [request.source for request in prompts_of_predict(tmp_path / "p.txt")] == prompts
    rows = [json.dumps({"caption": prompt}, ensure_ascii=False) for prompt in prompts]
    (tmp_path / "r.jsonl").write_bytes((end.join(rows) + end).encode(encoding))
    assert list(read_json_lines(tmp_path / "r.jsonl")) == [(n, {"caption": p}) for n, p in enumerate(prompts, 1)]


def test_a_mark_inside_joined_files_and_blank_lines_are_no_prompts():
    assert list(numbered_lines("\ufeffone\n \n\ufefftwo \n\n")) == [(1, "one"), (3, "two")]


@pytest.mark.parametrize(
    ("content", "encoding", "message"),
    [
        (
            "one\nKöln\n".encode("latin-1"),
            None,
            "t.txt is not UTF-8 text: .* at byte 5, line 2; save it as UTF-8, or .*--x",
        ),
        ("a\nb".encode("utf-16-le"), None, "t.txt is not UTF-8 text: it holds zero bytes, line 1"),
        ("a\nb".encode("utf-16-le")[:-1], "utf-16-le", "t.txt is not utf-16-le text: truncated data"),
        (b"a", "klingon", "--x klingon: no such encoding"),
        (b"a", "hex", "--x hex: no such encoding"),
    ],
)
def test_other_encodings_are_one_line_or_named(content, encoding, message):
    with pytest.raises(ValueError, match=message) as error:
        decode_text(content, "t.txt", encoding, "--x")
    assert "\n" not in str(error.value)
    assert decode_text("Köln".encode("cp1252"), "t.txt", "cp1252") == "Köln"


def test_files_that_are_none(tmp_path):
    for path, message in ((tmp_path, "is a folder; give a file"), (tmp_path / "no", "does not exist")):
        with pytest.raises(ValueError, match=message):
            read_text(path)


def drawn_cells(rng, separator):
    """Rows of 3 cells, not all blank, with everything a cell may hold."""
    parts = ["a", "für", "", ",", ";", "\t", "|", '"', "\n", "\r\n", *OTHERS, " b", "1,5", "'", "x" * 200]
    for number in range(rng.randint(1, 8)):
        yield [f"{number}.jpg", *("".join(rng.choices(parts, k=3)) for _ in range(2))]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_what_a_csv_writer_writes_is_read_back(tmp_path, seed, separator):
    rng = random.Random(seed)
    rows, text = list(drawn_cells(rng, separator)), io.StringIO(newline="")
    writer = csv.writer(text, delimiter=separator, lineterminator=rng.choice(ENDS[:2]), quoting=csv.QUOTE_ALL)
    writer.writerows([["image", "the caption", "c"], *rows])
    path = tmp_path / ("t.TSV" if separator == "\t" and seed % 2 else "t.csv")
    path.write_bytes(text.getvalue().encode(rng.choice(ENCODINGS)))
    table = read_csv(path)
    assert table.titles == ["image", "the caption", "c"]
    assert [list(row.values()) for _, row in table.rows] == rows


@pytest.mark.parametrize("seed", range(20))
def test_a_row_of_another_length_is_refused_by_its_line(tmp_path, seed):
    rng = random.Random(seed)
    rows = [["1"] * 3 for _ in range(10)]
    odd = rng.randrange(10)
    rows[odd] = ["1"] * rng.choice([1, 2, 4, 5])
    (tmp_path / "t.csv").write_text("a,b,c\n" + "\n".join(map(",".join, rows)))
    with pytest.raises(
        ValueError, match=rf"t\.csv: line {odd + 2} has {len(rows[odd])} cells, the header has 3; quote"
    ):
        list(read_csv(tmp_path / "t.csv").rows)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b, a\n1,2,3\n", "two columns are named 'a'"),
        ('a,b\n1,"2\n3,4\n', "line 2: .*are all quotes closed"),
        ('a,b\n1,"2" or 3\n', "line 2: .*are all quotes closed"),
        ("sep=x\na,b\n", "separator 'x'; use commas, semicolons, tabs, bars"),
    ],
)
def test_tables_that_are_ambiguous_are_refused(tmp_path, content, message):
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        list(read_csv(tmp_path / "t.csv").rows)


def test_separators_blank_rows_and_long_cells(tmp_path):
    (tmp_path / "t.csv").write_text(f"sep=;\n\n a ; b,c\n\n1;{'z' * 200_000}\n;\n")
    table = read_csv(tmp_path / "t.csv")
    assert table.titles == ["a", "b,c"]
    assert [(number, len(row)) for number, row in table.rows] == [(4, 0), (5, 2), (6, 0)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": 1}\n{"a": 1, "a": 2}', "line 2 is not JSON: 'a' stands twice"),
        ('\n[{"a": 1}]', "line 2 holds a list; write an object"),
        ('{"a": 1} {}', "line 1 is not JSON"),
        (f'{{"a": {"7" * 5000}}}', "a whole number of 5000 digits"),
        ("[" * 100_000, "line 1 is not JSON"),
    ],
)
def test_json_lines_that_are_none(tmp_path, content, message):
    (tmp_path / "t.jsonl").write_text(content)
    with pytest.raises(ValueError, match=message):
        list(read_json_lines(tmp_path / "t.jsonl"))
    (tmp_path / "t.jsonl").write_text('{"a": NaN}')
    assert list(read_json_lines(tmp_path / "t.jsonl")) == [(1, {"a": None})]
