"""A user's own pictures: good, broken and without captions, with .txt files or a table."""

import hashlib
import io
import json
import os
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
    assert build_folder(pictures[0], tmp_path / "a", "--captions", str(path), *options) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "a").exists()


def test_folders_that_cannot_be_used_are_one_line(pictures, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.eps").write_bytes(b"x")
    bad = tmp_path / "t.jsonl"
    bad.write_text('{"path": "x"\n')
    for images, options, message in [
        (tmp_path / "absent", [], "no such folder"),
        (tmp_path / "empty", [], "it has .eps"),
        (pictures[0], ["--max-pixels", "0"], "--max-pixels 0: expected at least 1"),
        (pictures[0], ["--encoding", "klingon"], "--encoding klingon: no such encoding"),
        (pictures[0], ["--val-fraction", "0.6", "--test-fraction", "0.4"], "leave some to train on"),
        (pictures[0], ["--captions", str(bad)], "line 1 is not JSON"),
        (pictures[0], ["--captions", "captions.xlsx"], "ends in .csv"),
        (pictures[0], ["--size", "1"], "at least 8"),
    ]:
        assert build_folder(images, tmp_path / "a", *options) == 2
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


@pytest.fixture
def build(tmp_path, capsys):
    """Pack the folder p, all for training; {path of the picture: its files} and what was printed."""

    def run(*options, shares=("--val-fraction", "0", "--test-fraction", "0")):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        assert build_folder(tmp_path / "p", tmp_path / "out", *shares, *options) == 0
        found = {}
        for samples in read_folder(tmp_path / "out").values():
            found |= {json.loads(files["json"])["file"]: files for files in samples.values()}
        first, *told = capsys.readouterr().out.splitlines()
        assert first.startswith("pictures: ")
        return found, "\n".join(told)

    return run


def test_pictures_are_counted_by_suffix(tmp_path, capsys):
    for name in ("a.png", "b.PNG", "c.jfif"):
        captioned(tmp_path / "p", name, drawn("JPEG" if name == "c.jfif" else "PNG")[0])
    assert build_folder(tmp_path / "p", tmp_path / "a", "--val-fraction", "0", "--test-fraction", "0") == 0
    assert capsys.readouterr().out == "pictures: 2 .png, 1 .jfif\n"


def captioned(folder, name, content, text=b"words"):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    (folder / name).with_suffix(".txt").write_bytes(text)


def drawn(form, mode="RGB", size=(9, 6), **options):
    buffer = io.BytesIO()
    pixels = Image.linear_gradient("L").resize(size).convert(mode)
    pixels.save(buffer, form, **options)
    return buffer.getvalue(), np.asarray(pixels.convert("RGB"))


EXACT = {".tif": "TIFF", ".tiff": "TIFF", ".tga": "TGA", ".ppm": "PPM", ".qoi": "QOI", ".dib": "DIB", ".bmp": "BMP"}


@pytest.mark.parametrize("misnamed", [False, True])
def test_pictures_of_other_formats_become_png(tmp_path, build, misnamed):
    """Also where the file is called .jpg, as from web sites."""
    expected = {}
    for number, (suffix, form) in enumerate({**EXACT, ".jp2": "JPEG2000", ".avif": "AVIF"}.items()):
        content, pixels = drawn(form)
        if misnamed and form == "TGA":
            continue  # has no signature
        expected[f"{number}.jpg" if misnamed else f"{number}{suffix}"] = (form, pixels)
        captioned(tmp_path / "p", f"{number}.jpg" if misnamed else f"{number}{suffix}", content)
    found, told = build()
    assert set(found) == set(expected)
    assert "left out" not in told
    for name, (form, pixels) in expected.items():
        stored = np.asarray(Image.open(io.BytesIO(found[name]["png"])))
        np.testing.assert_allclose(stored.astype(int), pixels, atol=0 if form in EXACT.values() else 12)


def test_jpegs_of_other_names_keep_their_bytes(tmp_path, build):
    content = drawn("JPEG")[0]
    for name in ("a.jfif", "b.JPE", "c.jpeg"):
        captioned(tmp_path / "p", name, content)
    found, _ = build()
    assert [found[name]["jpg"] for name in ("a.jfif", "b.JPE", "c.jpeg")] == [content] * 3


def test_orientation_depth_and_transparency_of_other_formats(tmp_path, build):
    exif = Image.Exif()
    exif[0x0112] = 6
    captioned(tmp_path / "p", "turned.tif", drawn("TIFF", size=(9, 6), exif=exif)[0])
    deep, clear, float32, pages = (io.BytesIO() for _ in range(4))
    Image.fromarray(np.full((6, 9), 0x80FF, np.uint16)).save(deep, "TIFF")
    Image.new("RGBA", (9, 6), (9, 9, 9, 0)).save(clear, "TIFF")
    Image.fromarray(np.ones((6, 9), np.float32)).save(float32, "TIFF")
    Image.new("RGB", (9, 6), "red").save(pages, "TIFF", save_all=True, append_images=[Image.new("RGB", (9, 6))])
    for name, file in {"deep": deep, "clear": clear, "float32": float32, "pages": pages}.items():
        captioned(tmp_path / "p", f"{name}.tiff", file.getvalue())
    found, told = build()
    seen = {name: np.asarray(Image.open(io.BytesIO(files["png"]))) for name, files in found.items()}
    assert seen["turned.tif"].shape == (9, 6, 3)
    assert {name: seen[f"{name}.tiff"][0, 0].tolist() for name in ("deep", "clear", "pages")} == {
        "deep": [128] * 3,
        "clear": [255] * 3,
        "pages": [255, 0, 0],
    }
    assert "left out, not an image: 1, such as 'float32.tiff' (TIFF of F numbers; store 8 or 16 bits)" in told


@pytest.mark.parametrize("form", ["TIFF", "AVIF", "JPEG2000"])
def test_damaged_pictures_of_other_formats_are_left_out(tmp_path, build, form):
    rng = np.random.default_rng(0)
    whole = drawn(form, size=(64, 64))[0]
    captioned(tmp_path / "p", "good.png", drawn("PNG")[0])
    for number in range(30):
        damaged = bytearray(whole[: rng.integers(1, len(whole))] if number % 2 else whole)
        for place in rng.integers(0, len(damaged), 8):
            damaged[place] = rng.integers(256)
        captioned(tmp_path / "p", f"{number}.tif", bytes(damaged))
    found, told = build()
    assert "good.png" in found
    assert len(found) < 31
    assert all(line.startswith("left out, ") for line in told.splitlines())


HEIC = b"\0\0\0\x18ftypheic" + bytes(40)


def test_what_is_not_read_is_counted_by_kind_with_an_example(tmp_path, build, monkeypatch):
    from datamodules.prepare.picture_formats import readable

    for module in ("pillow_heif", "pillow_jxl"):
        monkeypatch.setitem(sys.modules, module, None)
    readable.cache_clear()
    others = ["a.heic", "b.HIF", "c.jxl", "d.dng", "d2.DNG", "e.eps", "f.jpg_large", "g.mp4", "noend", ".DS_Store"]
    for name in [*others, "sub/.x.jpg", "sub/deep/.y/z.jpg"]:
        (tmp_path / "p" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "p" / name).write_bytes(b"x")
    captioned(tmp_path / "p", "good.png", drawn("PNG")[0])
    captioned(tmp_path / "p", "phone.jpg", HEIC)
    (tmp_path / "p" / "god.txt").write_text("misspelt")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "p" / "linked").symlink_to(tmp_path / "elsewhere")
    found, told = build()
    assert set(found) == {"good.png"}
    assert set(told.splitlines()) == {
        "left out, .heic, `pip install pillow-heif` reads them: 1, such as 'a.heic'",
        "left out, .hif, `pip install pillow-heif` reads them: 1, such as 'b.HIF'",
        "left out, .jxl, `pip install pillow-jxl-plugin` reads them: 1, such as 'c.jxl'",
        "left out, .dng, raw photographs; export them as JPEG or PNG: 2, such as 'd.dng'",
        *(
            f"left out, {suffix}, not read as pictures; convert or rename those that are: 1, such as '{name}'"
            for suffix, name in {
                ".eps": "e.eps",
                ".jpg_large": "f.jpg_large",
                ".mp4": "g.mp4",
                "no suffix": "noend",
            }.items()
        ),
        "left out, hidden: 3, such as '.DS_Store'",
        "left out, links to folders, which are not followed: 1, such as 'linked'",
        "left out, texts without a picture of their name: 1, such as 'god.txt'",
        "left out, not an image: 1, such as 'phone.jpg' (HEIC, pillow-heif reads it)",
    }
    notes = json.loads((tmp_path / "out" / "index.json").read_text())["notes"]
    assert sum(notes["other_files"].values()) == 14


def test_plugins_of_pillow_are_used_where_they_are_installed(tmp_path, build, monkeypatch):
    from datamodules.prepare.picture_formats import readable

    def register():
        Image.register_open(
            "HEIF", lambda file, name: Image.new("RGB", (3, 2), "blue"), lambda head: head[4:12] == b"ftypheic"
        )
        Image.register_extension("HEIF", ".heic")

    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    monkeypatch.setattr(Image, "EXTENSION", dict(Image.EXTENSION))
    monkeypatch.setitem(sys.modules, "pillow_heif", SimpleNamespace(register_heif_opener=register))
    readable.cache_clear()
    captioned(tmp_path / "p", "phone.heic", HEIC)
    found, told = build()
    readable.cache_clear()
    assert np.asarray(Image.open(io.BytesIO(found["phone.heic"]["png"]))).tolist() == [[[0, 0, 255]] * 3] * 2
    assert told == ""


def test_larger_pictures_need_a_higher_limit(tmp_path, build):
    for name, form in {"a.png": "PNG", "b.tif": "TIFF"}.items():
        captioned(tmp_path / "p", name, drawn(form, size=(40, 30))[0])
    captioned(tmp_path / "p", "small.png", drawn("PNG")[0])
    found, told = build("--max-pixels", "1199")
    assert set(found) == {"small.png"}
    assert "left out, too large: 2, such as 'a.png', 'b.tif' (" in told
    assert "--max-pixels raises the limit" in told
    assert len(build("--max-pixels", "1200")[0]) == 3
    assert "--data.transform.max_pixels 67108865" in build("--max-pixels", str((1 << 26) + 1))[1]


@pytest.mark.parametrize("fault", ["cut", "no words", "utf-16"])
@pytest.mark.parametrize("split", ["val", "test"])
def test_one_bad_picture_that_is_a_whole_split(tmp_path, build, fault, split):
    from datamodules.prepare.hashed_share import share

    shares = {f"p{number}": share("folder", "0", f"p{number}") for number in range(20)}
    first, second = sorted(shares, key=shares.get)[:2]
    fraction = (shares[first] + shares[second]) / 2
    for number in range(20):
        captioned(tmp_path / "p", f"p{number}.png", drawn("PNG")[0])
    if fault == "cut":
        (tmp_path / "p" / f"{first}.png").write_bytes(drawn("PNG")[0][:60])
    else:
        (tmp_path / "p" / f"{first}.txt").write_bytes("words".encode("utf-16") if fault == "utf-16" else b" ")
    empty = {"val": "test", "test": "val"}[split]
    found, told = build(shares=(f"--{split}-fraction", str(fraction), f"--{empty}-fraction", "0"))
    assert set(found) == {f"p{number}.png" for number in range(20)} - {f"{first}.png"}
    assert f"no split {split}: its 1 pictures were left out; raise --{split}-fraction" in told
    assert "left out, " in told
    assert set(json.loads((tmp_path / "out" / "index.json").read_text())["splits"]) == {"train"}


def test_a_split_in_which_no_picture_falls_is_said(tmp_path, build):
    captioned(tmp_path / "p", "a.png", drawn("PNG")[0])
    _, told = build(shares=("--val-fraction", "1e-9", "--test-fraction", "0"))
    assert told.splitlines() == [
        "no split val: by chance no picture fell there; raise --val-fraction 1e-09 or change --seed 0"
    ]


def test_lines_of_texts_and_their_encoding(tmp_path, build):
    captioned(tmp_path / "p", "a.png", drawn("PNG")[0], "für\nzwei\n".encode("latin-1"))
    found, told = build("--encoding", "latin-1", "--caption-lines", "all")
    assert json.loads(found["a.png"]["json"])["captions"] == ["für", "zwei"]
    assert found["a.png"]["txt"].decode() == "für"
    assert "texts with several lines: 1, such as that of 'a.png'; each line is a caption" in told


def few_pictures(folder, count=3):
    folder.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", (16, 16), (number, 0, 0)).save(folder / f"p{number}.png")
        (folder / f"p{number}.txt").write_text(f"picture {number}")
    return folder


WHOLE = ("--val-fraction", "0", "--test-fraction", "0")


@pytest.mark.parametrize("source", ["p1.txt", "p1.png", "table.csv"])
def test_a_build_that_was_cut_off_does_not_go_on_with_corrected_sources(tmp_path, monkeypatch, capsys, source):
    from datamodules.prepare import folder as command

    images = few_pictures(tmp_path / "images")
    table = images / "table.csv"
    table.write_text("path,caption\n" + "".join(f"p{i}.png,text {i}\n" for i in range(3)))
    options = [*WHOLE, *(["--captions", str(table)] if source == "table.csv" else [])]
    whole = command.sample
    monkeypatch.setattr(command, "sample", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert build_folder(images, tmp_path / "out", *options) == 130
    monkeypatch.setattr(command, "sample", whole)
    with (images / source).open("ab") as file:
        file.write(b" corrected\n" if source != "table.csv" else b"p0.png,more\n")
    capsys.readouterr()
    assert build_folder(images, tmp_path / "out", *options) == 2
    error = capsys.readouterr().err
    assert "sources have changed since; delete it to start anew" in error
    assert error.count("\n") == 1


def test_sources_inside_the_folder_that_is_replaced_stay(tmp_path, capsys):
    out = tmp_path / "mine"
    assert build_folder(few_pictures(tmp_path / "images"), out, *WHOLE) == 0
    few_pictures(out / "pictures")
    (out / "t.csv").write_text("path,caption\np0.png,text\n")
    commands = [
        ["folder", "--images", str(out / "pictures"), "--out", str(out)],
        ["folder", "--images", str(tmp_path / "images"), "--captions", str(out / "t.csv"), "--out", str(out)],
        ["table", "--pairs", str(out / "t.csv"), "--x-columns", "a", "--y-columns", "b", "--out", str(out)],
        ["folder", "--images", str(tmp_path / "images"), "--out", str(out)],  # others' files
        ["latents", "--data", str(out), "--autoencoder", "a", "--text-encoder", "t", "--out", str(out)],
    ]
    before = sorted(out.rglob("*"))
    for command in commands:
        capsys.readouterr()
        assert main([*command, "--overwrite"]) == 2
        assert capsys.readouterr().err.count("\n") == 1
        assert sorted(out.rglob("*")) == before


def test_a_folder_with_its_contact_sheet_is_replaced(tmp_path):
    images, out = few_pictures(tmp_path / "images"), tmp_path / "out"
    assert build_folder(images, out, *WHOLE) == 0
    assert main(["check", str(out), "--sheet", str(out / "overview.png")]) == 0
    assert build_folder(images, out, *WHOLE, "--overwrite") == 0
    assert not (out / "overview.png").exists()


@pytest.mark.parametrize("address", ["s3://bucket/x", "https://host/x", "gs://b/x"])
def test_an_address_is_no_place_to_write_to(tmp_path, monkeypatch, capsys, address):
    monkeypatch.chdir(tmp_path)
    assert build_folder(few_pictures(tmp_path / "images"), address, *WHOLE) == 2
    assert f"--out {address} is an address" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_names_that_steer_a_terminal_or_are_no_text_end_nothing(tmp_path, monkeypatch):
    """On a strict stdout; the last line comes, and the folder and its index are whole."""
    folder = tmp_path / "p"
    for name in ("good.png", "\x1b[31mred.png", "bad.png"):
        captioned(folder, name, drawn("PNG")[0] if "bad" not in name else b"no picture")
    for name in (b"x.\xff", b"y.\x1b[31mRED", b"z\n.\xe2\x80\xaetxt", b"\xff.mp4"):
        Path(os.fsdecode(bytes(folder) + b"/" + name)).write_bytes(b"x")
    stream = io.TextIOWrapper(raw := io.BytesIO(), "utf-8", errors="strict")
    monkeypatch.setattr(sys, "stdout", stream)
    assert build_folder(folder, tmp_path / "a", "--val-fraction", "0", "--test-fraction", "0") == 0
    stream.flush()
    lines = raw.getvalue().decode().removesuffix("\n").split("\n")
    assert all(line.isprintable() for line in lines)
    assert sum(line.startswith("left out, ") for line in lines) == 5
    assert "not an image: 1, such as 'bad.png'" in raw.getvalue().decode()
    kinds = json.loads((tmp_path / "a" / "index.json").read_text())["notes"]["other_files"]
    assert all(kind.isprintable() for kind in kinds)
    assert main(["check", str(tmp_path / "a")]) == 0


@pytest.mark.parametrize("latin", ["images", "out", "captions"])
def test_paths_need_not_be_utf8(tmp_path, capsys, latin):
    names = {name: os.fsdecode(b"caf\xe9" if name == latin else name.encode()) for name in ("images", "out")}
    names["captions"] = os.fsdecode(b"caf\xe9.csv") if latin == "captions" else "t.csv"
    for name in ("a.png", "b.png"):
        captioned(tmp_path / names["images"], name, drawn("PNG")[0])
    (tmp_path / names["captions"]).write_text("image,caption\na.png,words\n")
    table = ("--captions", str(tmp_path / names["captions"])) if latin == "captions" else ()
    shares = ("--val-fraction", "0", "--test-fraction", "0")
    out = tmp_path / names["out"]
    assert build_folder(tmp_path / names["images"], out, *shares, *table) == 0
    assert "pictures: 2 .png" in capsys.readouterr().out
    command = json.loads((out / "index.json").read_text())["command"]
    assert "caf\\xe9" in command
    assert command in (out / "README.md").read_text()
    assert main(["check", str(out)]) == 0
    assert "sound: " in capsys.readouterr().out


def test_errors_about_names_are_one_plain_line(tmp_path, capsys):
    assert build_folder(tmp_path / "\x1b[31m\nx", tmp_path / "a") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.isprintable()
    assert "no such folder" in line


def test_texts_may_end_in_capitals(tmp_path, build):
    for name in ("a", "b", "c"):
        captioned(tmp_path / "p", f"{name}.png", drawn("PNG")[0])
    (tmp_path / "p" / "b.txt").rename(tmp_path / "p" / "b.TXT")
    (tmp_path / "p" / "c.TXT").write_text("other words")
    found, told = build()
    assert {name: files["txt"] for name, files in found.items()} == dict.fromkeys(["a.png", "b.png", "c.png"], b"words")
    assert told == "left out, texts beside another text of their name: 1, such as 'c.TXT'"


def test_twins_in_normal_form_keep_their_own_captions(tmp_path, build):
    for name in ("caf\u00e9.png", "cafe\u0301.png"):
        captioned(tmp_path / "p", name, drawn("PNG")[0])
    (tmp_path / "t.csv").write_text(
        "image,caption\ncaf\u00e9.png,composed\ncafe\u0301.png,decomposed\n", encoding="utf-8"
    )
    found, told = build("--captions", str(tmp_path / "t.csv"))
    assert {name: files["txt"] for name, files in found.items()} == {
        "caf\u00e9.png": b"composed",
        "cafe\u0301.png": b"decomposed",
    }
    assert "captions" not in "".join(files["json"].decode() for files in found.values())
    assert "of the table" not in told


@pytest.mark.parametrize("what", ["endless.png", "endless.txt"])
def test_devices_and_pipes_are_not_read(tmp_path, build, what):
    captioned(tmp_path / "p", "good.png", drawn("PNG")[0])
    captioned(tmp_path / "p", "endless.png", drawn("PNG")[0])
    (tmp_path / "p" / what).unlink()
    if what.endswith("png"):
        (tmp_path / "p" / what).symlink_to("/dev/zero")
    else:
        os.mkfifo(tmp_path / "p" / what)
    found, told = build()
    assert set(found) == {"good.png"}
    assert "left out, unreadable: 1, such as 'endless.png' (a device or a pipe, not a file)" in told
