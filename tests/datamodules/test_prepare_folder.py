"""A user's own pictures: good, broken and without captions, with .txt files or a table."""

import hashlib
import io
import json
import re
import shutil
import sys
import tarfile
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from datamodules.image_decoding import decode_image
from datamodules.prepare.__main__ import main


def read_folder(folder):
    """{split: {key: {suffix: bytes}}} with the standard library's reader."""
    found = defaultdict(lambda: defaultdict(dict))
    for path in sorted(Path(folder).glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, suffix = member.name.partition(".")
                found[path.name.rsplit("-", 1)[0]][key][suffix] = tar.extractfile(member).read()
    return found


def digests(folder):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in Path(folder).iterdir()}


def noise_file(path, size, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(str(path.name))).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path.read_bytes()


@pytest.fixture
def pictures(tmp_path):
    """Five good pictures, two with names that make one key; a truncated one, one without text, one with a blank one."""
    folder = tmp_path / "pictures"
    kept = {
        "a b.jpg": noise_file(folder / "a b.jpg", (40, 30)),
        "a_b.PNG": noise_file(folder / "a_b.PNG", (20, 60)),
        "deep/er/c.d.webp": noise_file(folder / "deep/er/c.d.webp", (16, 16), lossless=True),
        "é.jpeg": noise_file(folder / "é.jpeg", (10, 10)),
        "moving.gif": noise_file(folder / "moving.gif", (12, 14)),
    }
    noise_file(folder / "cut.jpg", (64, 64))
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:700])
    noise_file(folder / "mute.png", (8, 8))
    noise_file(folder / "blank.png", (8, 8))
    (folder / ".hidden.jpg").write_bytes(b"no")
    for name in [*kept, "cut.jpg"]:
        (folder / name).with_suffix(".txt").write_text(f" picture {Path(name).stem}\n", encoding="utf-8")
    (folder / "blank.txt").write_text(" \n")
    return folder, kept


def build_folder(folder, out, *more):
    return main(["folder", "--images", str(folder), "--out", str(out), *more])


def test_a_folder_of_pictures_with_texts(pictures, tmp_path, capsys):
    folder, kept = pictures
    assert build_folder(folder, tmp_path / "a", "--val-fraction", "0", "--test-fraction", "0") == 0
    found = read_folder(tmp_path / "a")["train"]
    by_file = {json.loads(files["json"])["file"]: (key, files) for key, files in found.items()}
    assert set(by_file) == set(kept)
    assert all(re.fullmatch("[A-Za-z0-9_-]+", key) for key in found)
    for name, content in kept.items():
        _, files = by_file[name]
        assert files["txt"].decode() == f"picture {Path(name).stem}"
        if name != "moving.gif":
            suffix = {"jpeg": "jpg"}.get(Path(name).suffix[1:].lower(), Path(name).suffix[1:].lower())
            assert files[suffix] == content
        else:
            expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
            assert (decode_image(files["png"]).permute(1, 2, 0).numpy() == expected).all()
    assert by_file["a b.jpg"][0] != by_file["a_b.PNG"][0]
    skipped = json.loads((tmp_path / "a" / "index.json").read_text())["notes"]["skipped"]
    assert {kind: note["keys"] for kind, note in skipped.items()} == {
        "truncated_image": ["cut"],
        "missing_caption": ["mute"],
        "empty_caption": ["blank"],
    }
    assert "left out, truncated image: 1, such as 'cut.jpg'" in capsys.readouterr().out


def test_pictures_are_shrunk_to_a_short_side(pictures, tmp_path):
    assert build_folder(pictures[0], tmp_path / "a", "--size", "15", "--val-fraction", "0", "--test-fraction", "0") == 0
    sizes = {}
    for files in read_folder(tmp_path / "a")["train"].values():
        suffix = next(iter(set(files) - {"txt", "json"}))
        sizes[json.loads(files["json"])["file"]] = (suffix, *decode_image(files[suffix]).shape[1:])
    assert sizes["a b.jpg"] == ("jpg", 15, 20)
    assert sizes["a_b.PNG"] == ("png", 45, 15)
    assert sizes["deep/er/c.d.webp"] == ("png", 15, 15)
    assert sizes["é.jpeg"] == ("jpg", 10, 10)  # never enlarged


def table_file(folder, kind):
    """Three pictures with captions, one of them twice, and one that is nowhere; as a path, a name and a stem."""
    rows = [
        ("deep/er/c.d.webp", "one"),
        ("a_b.PNG", "two"),
        ("./a_b.PNG", "three"),
        ("é", "four, five"),
        ("nowhere.jpg", "x"),
    ]
    path = folder.parent / f"table.{kind}"
    if kind == "jsonl":
        lines = [json.dumps({"file_name": name, "text": text}) for name, text in rows]
    else:
        lines = ["path,Caption", *(f'{name},"{text}"' for name, text in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_captions_from_a_table(pictures, tmp_path, capsys, kind):
    table = table_file(pictures[0], kind)
    options = ["--captions", str(table), "--val-fraction", "0", "--test-fraction", "0"]
    assert build_folder(pictures[0], tmp_path / "a", *options) == 0
    found = {}
    for files in read_folder(tmp_path / "a")["train"].values():
        about = json.loads(files["json"])
        found[about["file"]] = about.get("captions") or [files["txt"].decode()]
    assert found == {"deep/er/c.d.webp": ["one"], "a_b.PNG": ["two", "three"], "é.jpeg": ["four, five"]}
    assert "1 pictures of the table are not below" in capsys.readouterr().out


def test_captions_from_parquet(pictures, tmp_path, monkeypatch, capsys):
    path = tmp_path / "table.parquet"
    path.write_bytes(b"PAR1")
    rows = [{"image": "a b.jpg", "prompt": np.array(["x", "y"], dtype=object)}, {"image": "é.jpeg", "prompt": "z"}]
    table = SimpleNamespace(to_dict=lambda how: rows)
    pandas = SimpleNamespace(read_parquet=lambda path, engine: table)  # the real one takes five seconds to import
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    assert build_folder(pictures[0], tmp_path / "a", "--captions", str(path), "--val-fraction", "0") == 0
    captioned = {
        json.loads(files["json"])["file"]: files["txt"].decode()
        for split in read_folder(tmp_path / "a").values()
        for files in split.values()
    }
    assert captioned == {"a b.jpg": "x", "é.jpeg": "z"}

    def absent(*_, **__):
        raise ImportError("pyarrow")

    pandas.read_parquet = absent
    assert build_folder(pictures[0], tmp_path / "b", "--captions", str(path)) == 1
    assert "pip install pandas pyarrow" in capsys.readouterr().err


def test_splits_depend_on_the_seed_and_are_the_same_twice(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in range(60):
        noise_file(tmp_path / f"p/{number}.png", (4, 4))
        (tmp_path / f"p/{number}.txt").write_text("x")
    options = ["--val-fraction", "0.3", "--test-fraction", "0.3"]
    assert build_folder("p", "a", *options) == 0
    first = digests("a")
    shutil.rmtree("a")
    assert build_folder("p", "a", *options) == 0
    assert digests("a") == first
    assert build_folder("p", "b", *options, "--seed", "1") == 0
    one, other = read_folder("a"), read_folder("b")
    assert sum(len(samples) for samples in one.values()) == 60
    assert all(9 <= len(samples) <= 33 for samples in one.values())
    assert set(one["val"]) != set(other["val"])


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("name,words\nx.jpg,hello\n", [], "no column file_name, image"),
        ("path,caption\nx.jpg,hello\n", ["--caption-column", "words"], "no column 'words'; it has path, caption"),
        ("path,caption\nx.jpg,hello\n", [], "none of the 8 pictures has a caption"),
        ("", [], "holds no rows"),
        ("path,caption\n\xff", [], "not UTF-8"),
    ],
)
def test_tables_that_cannot_be_used_are_one_line(pictures, tmp_path, capsys, content, options, message):
    path = tmp_path / "t.csv"
    path.write_bytes(content.encode("latin-1"))
    assert build_folder(pictures[0], tmp_path / "a", "--captions", str(path), *options) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "a").exists()


def test_folders_that_cannot_be_used_are_one_line(pictures, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.tiff").write_bytes(b"x")
    bad = tmp_path / "t.jsonl"
    bad.write_text('{"path": "x"\n')
    for images, options, message in [
        (tmp_path / "absent", [], "no such folder"),
        (tmp_path / "empty", [], "it has .tiff"),
        (pictures[0], ["--val-fraction", "0.6", "--test-fraction", "0.4"], "leave some to train on"),
        (pictures[0], ["--captions", str(bad)], "line 1 is not JSON"),
        (pictures[0], ["--captions", "captions.xlsx"], "ends in .csv"),
        (pictures[0], ["--size", "1"], "at least 8"),
    ]:
        assert build_folder(images, tmp_path / "a", *options) == 1
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_a_name_that_two_pictures_share_names_neither(tmp_path, capsys):
    for name in ("one/x.png", "two/x.png", "two/y.png"):
        noise_file(tmp_path / "p" / name, (4, 4))
    (tmp_path / "t.csv").write_text("path,text\nx.png,which?\ntwo/x.png,this\ny,that\n")
    options = ["--captions", str(tmp_path / "t.csv"), "--val-fraction", "0", "--test-fraction", "0"]
    assert build_folder(tmp_path / "p", tmp_path / "a", *options) == 0
    found = read_folder(tmp_path / "a")["train"]
    assert {key: files["txt"].decode() for key, files in found.items()} == {"two_x": "this", "two_y": "that"}
    assert "such as 'x.png'" in capsys.readouterr().out
