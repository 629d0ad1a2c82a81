"""Captions from tables: whatever pictures are called, no row is lost without a word."""

import json
import random
import sys
import unicodedata
from contextlib import nullcontext
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import pytest

from datamodules.bad_sample import BadSample
from datamodules.prepare.caption_table import CaptionTable, captions_by_name
from datamodules.prepare.folder import captions_for
from datamodules.prepare.folder_captions import LONG, Captions
from datamodules.prepare.folder_listing import Listing, names_of

IMAGES = Path("pictures")


def parquet(monkeypatch, path, rows):
    """A stand-in for pyarrow, which is no dependency: files and batches as it has them."""
    batches = [SimpleNamespace(to_pylist=lambda: rows[:1]), SimpleNamespace(to_pylist=lambda: rows[1:])]
    file = SimpleNamespace(schema_arrow=SimpleNamespace(names=list(rows[0])), iter_batches=lambda: iter(batches))
    monkeypatch.setitem(sys.modules, "pyarrow", SimpleNamespace(ArrowException=RuntimeError))
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", SimpleNamespace(ParquetFile=lambda path: nullcontext(file)))
    path.write_bytes(b"PAR1")


def write(path, rows, monkeypatch):
    if path.suffix == ".parquet":
        parquet(monkeypatch, path, rows)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        cut = "\t" if path.suffix == ".tsv" else ","
        cells = [
            ["" if row[name] != row[name] or row[name] is None else str(row[name]) for name in rows[0]] for row in rows
        ]
        path.write_text("\n".join(map(cut.join, [list(rows[0]), *cells])))
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("floats", [False, True])  # as pandas makes whole numbers where one is missing
def test_pictures_may_be_numbers(tmp_path, monkeypatch, suffix, floats):
    numbers = [0, 1, 7, 10, 123456789]
    rows = [{"image": float(n) if floats else n, "caption": f"number {n}"} for n in numbers]
    rows += [{"image": float("nan"), "caption": "lost"}, {"image": None, "caption": "lost"}]
    table = CaptionTable(str(write(tmp_path / f"t{suffix}", rows, monkeypatch)))
    for number in numbers:
        assert table.of(names_of(f"deep/{number}.jpg")) == [f"number {number}"]
    for other in ("nan.jpg", "None.jpg", "2.jpg", "null.jpg", "01.jpg"):
        assert table.of(names_of(other)) is None
    (told,) = table.told(IMAGES)
    assert "2 rows name no picture, such as row or line" in told


def test_decimals_name_pictures_too(tmp_path, monkeypatch):
    rows = [{"image": Decimal(text), "caption": text} for text in ("7", "12.00", "2.5", "NaN")]
    parquet(monkeypatch, tmp_path / "t.parquet", rows)
    table = CaptionTable(str(tmp_path / "t.parquet"))
    assert table.captions == {"7": ["7"], "12": ["12.00"], "2.5": ["2.5"]}


@pytest.mark.parametrize("value", [True, [1], {"path": "x"}, "", float("inf")])
def test_what_is_no_name_is_counted(tmp_path, monkeypatch, value):
    rows = [{"image": "a.jpg", "caption": "a"}, {"image": value, "caption": "b"}]
    parquet(monkeypatch, tmp_path / "t.parquet", rows)
    table = CaptionTable(str(tmp_path / "t.parquet"))
    assert table.captions == {"a.jpg": ["a"]}
    assert "1 rows name no picture, such as row or line 2" in table.told(IMAGES)[-1]


def test_numbers_that_were_rounded_are_refused(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"image": 9007199254740993.0, "caption": "x"}')
    with pytest.raises(
        ValueError, match=r"line 1 calls its picture 9007199254740992.0, which was rounded; write .* text"
    ):
        CaptionTable(str(tmp_path / "t.jsonl"))
    (tmp_path / "t.jsonl").write_text('{"image": 9007199254740993, "caption": "x"}')
    assert CaptionTable(str(tmp_path / "t.jsonl")).of(names_of("9007199254740993.png")) == ["x"]


def test_captions_may_be_numbers_and_lists_and_those_that_lack_are_counted(tmp_path, monkeypatch):
    values = [7, 7.0, 7.5, ["a", None, "b", 3], b"bytes", None, float("nan"), " ", [], True, {"a": 1}]
    rows = [{"file": f"{number}.png", "text": value} for number, value in enumerate(values)]
    parquet(monkeypatch, tmp_path / "t.parquet", rows)
    table = CaptionTable(str(tmp_path / "t.parquet"))
    found = [table.of(names_of(f"{number}.png")) for number in range(len(values))]
    assert found == [["7"], ["7"], ["7.5"], ["a", "b", "3"], ["bytes"], [], [], [" "], [], [], []]
    assert table.told(IMAGES) == [
        f"{table.path}: 6 rows hold no caption, such as row or line 6",
        f"{table.path}: 1 entries in lists of captions are no texts and left out, such as None in row or line 4",
    ]


@pytest.mark.parametrize("seed", range(20))
def test_every_row_is_used_or_told(tmp_path, seed):
    rng = random.Random(seed)
    pictures = [f"{rng.choice(['a/', 'b/', ''])}{number}.{rng.choice(['jpg', 'png'])}" for number in range(10)]
    names = [rng.choice([*names_of(rng.choice(pictures)), "gone.jpg", ""]) for _ in range(30)]
    lines = ["image,caption", *(f"{name},caption {n}" for n, name in enumerate(names))]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    table = CaptionTable(str(tmp_path / "t.csv"))
    captions = sorted(caption for picture in pictures for caption in table.of(names_of(picture)) or [])
    assert captions == sorted(f"caption {n}" for n, name in enumerate(names) if name not in ("gone.jpg", ""))
    told = " ".join(table.told(IMAGES))
    assert ("'gone.jpg'" in told) == ("gone.jpg" in names)
    assert (f"{names.count('')} rows name no picture" in told) == ("" in names)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image,caption\n0.jpg,a cat, asleep\n", "line 2 has 3 cells, the header has 2; quote cells that hold commas"),
        ("image,caption\n0.jpg,a cat\nasleep\n", "line 3 has 1 cells"),
        ("image,caption,image\n0.jpg,a,1.jpg\n", "two columns are named 'image'"),
        ("name,words\nx,y\n", "no column file_name, .*it has name, words; name one with --image-column"),
    ],
)
def test_rows_that_are_shifted_are_refused(tmp_path, content, message):
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        CaptionTable(str(tmp_path / "t.csv"))


def test_a_column_that_is_misspelt_and_a_sheet(tmp_path):
    (tmp_path / "t.csv").write_text("image,caption_en\nx,y\n")
    with pytest.raises(ValueError, match="no column 'captoin_en'; it has image, caption_en; nearest: caption_en"):
        CaptionTable(str(tmp_path / "t.csv"), None, "captoin_en")
    with pytest.raises(ValueError, match="export the sheet as CSV"):
        CaptionTable(str(tmp_path / "t.xlsx"))


def test_parquet_without_pyarrow_and_damaged(tmp_path, monkeypatch):
    parquet(monkeypatch, tmp_path / "t.parquet", [{"image": "a", "caption": "b"}])

    def damaged(path):
        raise OSError("Parquet magic bytes not found in footer.\nMore")

    monkeypatch.setattr(sys.modules["pyarrow.parquet"], "ParquetFile", damaged)
    with pytest.raises(ValueError, match=r"t.parquet: not a readable parquet file \(Parquet magic bytes .*footer\.\)$"):
        CaptionTable(str(tmp_path / "t.parquet"))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match="`pip install pyarrow`"):
        CaptionTable(str(tmp_path / "t.parquet"))


TEXT = "one\r\n\r\n two\x0bhalf \rthree\u2028too\n"


@pytest.mark.parametrize(
    ("lines", "captions"),
    [(None, [TEXT.strip()]), ("first", ["one"]), ("all", ["one", "two\x0bhalf", "three\u2028too"])],
)
def test_texts_of_several_lines(tmp_path, lines, captions):
    (tmp_path / "a.txt").write_bytes(TEXT.encode())
    (tmp_path / "b.txt").write_text("single\n")
    (tmp_path / "c.txt").write_text("x" * (LONG + 1))
    sources = {name: tmp_path / f"{name}.txt" for name in "abc"} | {"d": [TEXT, "four"]}
    found = Captions(sources, lines)
    assert (found.of("a"), found.of("b")) == (captions, ["single"])
    assert found.of("c")
    assert found.of("d") == [*captions, "four"]
    several, long = found.told()
    assert "texts with several lines: 2, such as that of 'a'" in several
    assert ("--caption-lines" in several) == (lines is None)
    assert f"captions of more than {LONG} characters: 1 pictures, such as one of 'c'" in long


@pytest.mark.parametrize("encoding", [None, "utf-16", "latin-1"])
def test_texts_in_other_encodings_are_read_when_named(tmp_path, encoding):
    (tmp_path / "a.txt").write_text("für", encoding=encoding or "latin-1")
    captions = Captions({"a": tmp_path / "a.txt"}, None, encoding)
    if encoding:
        assert captions.of("a") == ["für"]
    else:
        with pytest.raises(BadSample, match="not_utf8"):
            captions.of("a")


def test_names_are_the_same_in_any_normal_form(tmp_path):
    (tmp_path / "t.csv").write_text("image,caption\ncafe\u0301,one\nb\u00fc.jpg,two\n", encoding="utf-8")
    options = SimpleNamespace(captions=str(tmp_path / "t.csv"), image_column=None, caption_column=None, encoding=None)
    found = captions_for(IMAGES, Listing(["caf\u00e9.jpg", "bu\u0308.jpg"], [], {}), options)
    assert found == {"caf\u00e9.jpg": ["one"], "bu\u0308.jpg": ["two"]}


FORMS = ("NFC", "NFD")


@pytest.mark.parametrize("seed", range(20))
def test_no_caption_goes_to_two_pictures_and_none_is_lost_in_silence(tmp_path, seed):
    """Names that differ in their normal form, folder or suffix only; rows that call them by any part of their path."""
    rng = random.Random(seed)
    bases = [f"{folder}{stem}.png" for folder in ("", "\u00fc/") for stem in ("caf\u00e9", "\u1e69", "plain")]
    spelt = sorted({unicodedata.normalize(form, base) for form in FORMS for base in bases})
    pictures = sorted(rng.sample(spelt, rng.randint(2, len(spelt))))
    called = [unicodedata.normalize(rng.choice(FORMS), rng.choice(names_of(rng.choice(spelt)))) for _ in range(15)]
    rows = [{"image": name, "caption": str(number)} for number, name in enumerate([*called, *pictures])]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    table = CaptionTable(str(tmp_path / "t.jsonl"))
    found = captions_by_name(table, pictures)
    given = [caption for captions in found.values() for caption in captions]
    assert len(given) == len(set(given))
    for number, picture in enumerate(pictures, len(called)):
        assert str(number) in found[picture]  # the row that spells it as it is
    lost = {row["image"] for row in rows if row["caption"] not in given}
    assert f"{len(lost)} pictures of the table" in " ".join(table.told(IMAGES)) if lost else not table.told(IMAGES)


@pytest.mark.parametrize("other", [["b"], {"c": 1}, None, True, [[]]])
def test_what_is_no_text_in_a_list_of_captions_is_counted_and_shown(tmp_path, other):
    rows = [{"image": "a.png", "caption": ["a", other, 5]}, {"image": "b.png", "caption": [other, other]}]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    table = CaptionTable(str(tmp_path / "t.jsonl"))
    assert table.of(["a.png"]) == ["a", "5"]
    assert table.of(["b.png"]) == []
    wordless, foreign = table.told(IMAGES)
    assert "1 rows hold no caption, such as row or line 2" in wordless
    assert "3 entries in lists of captions are no texts and left out, such as " in foreign
    assert foreign.endswith(f"such as {other!a} in row or line 1")


def test_long_things_in_a_list_are_shown_in_part(tmp_path):
    (tmp_path / "t.jsonl").write_text(json.dumps({"image": "a.png", "caption": ["a", {"k" * 999: 1}]}))
    table = CaptionTable(str(tmp_path / "t.jsonl"))
    table.of(["a.png"])
    assert len(table.told(IMAGES)[0]) < 250
