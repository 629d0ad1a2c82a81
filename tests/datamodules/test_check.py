"""`prepare check` on pictures: every structural fault of a fuzzed shard, unreadable samples, and what it prints."""

import io
import os
import pickle
import runpy
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.prepare.__main__ import main
from datamodules.prepare.image_check import check_images, check_shard
from datamodules.prepare.image_shard_writing import Samples, write_image_folder
from datamodules.remote import file_sha256
from fewstep.one_line import printable


def picture(number: int, size: tuple[int, int] = (8, 8), suffix: str = "png") -> bytes:
    content = io.BytesIO()
    Image.new("RGB", size, (number, 100, 200)).save(content, suffix)
    return content.getvalue()


def sample(number: int, **fields: bytes | None) -> dict[str, bytes]:
    whole = {"png": picture(number), "txt": b"number %d" % number} | fields
    return {name: content for name, content in whole.items() if content is not None}


def write(folder: Path, samples: dict[str, dict[str, bytes]], split: str = "train", **options) -> Path:
    about = {"name": "toy", "license": "CC0-1.0", "command": "none"}
    splits = {split: Samples(list(samples), samples.__getitem__)}
    write_image_folder(str(folder), splits, about, progress=False, **options)
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A real shard of three samples: its folder, its bytes, and where its headers are."""
    folder = write(tmp_path_factory.mktemp("small") / "toy", {f"k{i}": sample(i, json=b"{}") for i in range(3)})
    with tarfile.open(folder / "train-000000.tar") as tar:
        headers = [member.offset for member in tar]
    return folder, (folder / "train-000000.tar").read_bytes(), headers


def entry_of(folder: Path) -> dict:
    file, offsets = folder / "train-000000.tar", folder / "train-000000.offsets.npz"
    sizes = {"file": file.name, "bytes": file.stat().st_size, "sha256": file_sha256(file), "samples": 3}
    return sizes | {"offsets": offsets.name, "offsets_sha256": file_sha256(offsets)}


@pytest.fixture
def copied(small, tmp_path):
    folder, content, _ = small
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path / "train-000000.tar", content, entry_of(folder)


def test_every_cut_is_found(small, copied):
    file, content, entry = copied
    end = small[2][-1] + 1024  # the last member is the caption, one block after its header
    assert check_shard(str(file), entry)[1] == check_shard(str(file), None)[1] == []
    for cut in range(0, len(content), 512):
        file.write_bytes(content[:cut])
        assert check_shard(str(file), entry)[1]
        seen = bool(check_shard(str(file), None)[1])
        assert seen == (cut < end + 1024)  # without an index, surplus zeros are not missed


@pytest.mark.parametrize("mask", [0x01, 0xFF])
def test_every_flipped_header_byte_is_found(small, copied, mask):
    file, content, _ = copied
    flipped = bytearray(content)
    with file.open("r+b", buffering=0) as handle:
        for at in small[2]:
            for position in range(at, at + 512):
                handle.seek(position)
                handle.write(bytes([flipped[position] ^ mask]))
                assert check_shard(str(file), None)[1], position - at
                handle.seek(position)
                handle.write(flipped[position : position + 1])
    assert check_shard(str(file), None)[1] == []


def test_with_an_index_a_flip_anywhere_is_found(copied):
    file, content, entry = copied
    for position in range(0, len(content), 97):  # in pictures, paddings and the zeros of the end as well
        file.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        assert check_shard(str(file), entry)[1]


def test_the_command_says_what_is_wrong_where(copied, capsys):
    file, content, _ = copied
    assert main(["check", str(file.parent)]) == 0
    assert "sound: 3 samples" in capsys.readouterr().out
    file.write_bytes(content[:2048])
    assert main(["check", str(file.parent), "--quick"]) == 1
    captured = capsys.readouterr()
    assert "not sound: 3 faults of files" in captured.out
    assert captured.err.splitlines() == [
        f"fault: {file}: cut short at byte 2048, before the end of the archive",
        f"fault: {file}: 2048 bytes, index.json says {len(content)}",
        f"fault: {file}: 1 samples, index.json says 3",
    ]
    file.unlink()
    (file.parent / "stray.tar").write_bytes(content)
    assert main(["check", str(file.parent)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line.rpartition(": ")[2] for line in lines] == [
        "missing, but index.json names it (no such file; correct the path), or rebuild the folder",
        "not in index.json",
    ]


def test_offsets_that_tell_another_story_are_found(copied):
    from datamodules.sample_index import scan_shard, write_offsets

    file, _, entry = copied
    index = scan_shard(str(file))[0]
    index.fields["txt"][0] = index.fields["txt"][1]  # a caption of another picture
    offsets = file.parent / entry["offsets"]
    write_offsets(str(offsets), index)
    entry["offsets_sha256"] = file_sha256(offsets)
    assert check_shard(str(file), entry)[1] == [f"{file}: {offsets.name} differs from the headers of the tar"]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Two splits: good samples, each kind of bad one, equal pictures within and across splits."""
    whole = picture(9, (40, 20), "jpeg")
    samples = {f"good{i}": sample(i) for i in range(5)} | {
        "cut": sample(0, png=None, jpg=whole[: len(whole) // 2]),
        "words": sample(0, png=b"these are words, not a picture" * 9),
        "nothing": sample(0, png=b""),
        "silent": sample(0, txt=b"  \n"),
        "mute": sample(0, txt=None),
        "blind": sample(0, png=None),
        "latin": sample(0, txt="\u00e9".encode("latin-1")),
        "braces": sample(0, txt=None, json=b"{"),
        "twin": sample(3),
        "wide": sample(7, png=picture(7, (32, 8)), **{"edited.png": picture(8, (32, 8))}),
    }
    folder = tmp_path_factory.mktemp("mixed")
    write(folder / "a", samples)
    write(folder / "b", {"again": sample(3), "own": sample(50)}, split="val")
    for file in (folder / "b").glob("*.tar"):
        file.rename(folder / "a" / file.name)
    (folder / "a" / "index.json").unlink()
    return folder / "a"


def test_unreadable_samples_are_named_by_kind_and_key(mixed):
    report = check_images(str(mixed))
    assert {(where.partition(":")[2], kind) for kind, where, _ in report.unreadable} == {
        ("cut", "truncated_image"),
        ("words", "not_an_image"),
        ("nothing", "empty_file"),
        ("silent", "empty_caption"),
        ("mute", "missing_caption"),
        ("blind", "missing_image"),
        ("latin", "not_utf8"),
        ("braces", "bad_json"),
    }
    assert report.faults == []
    train = report.splits["train"]
    assert (train.shards, train.samples, len(train.captions)) == (1, 15, 7)
    assert train.fields["txt"] == 13
    assert train.sizes == {(8, 8): 6, (32, 8): 2}
    assert set(train.captions) == {8}
    assert report.duplicates == [
        ("train/train-000000.tar:good3", "train/train-000000.tar:twin"),
        ("train/train-000000.tar:good3", "val/val-000000.tar:again"),
    ]


def test_the_report_is_plain_when_piped_and_the_sheet_shows_pictures(mixed, tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    assert main(["check", str(mixed), "--sheet", str(sheet), "--limit", "0"]) == 1
    captured = capsys.readouterr()
    assert captured.out.isascii()
    assert "\x1b" not in captured.out + captured.err
    rows = [line.split() for line in captured.out.splitlines()]
    assert next(row for row in rows if row[:1] == ["val"]) == ["val", "1", "2", "png,", "txt", "8", "x", "8", "2", "0"]
    assert "2 pictures equal an earlier one" in captured.out
    assert "1 of them are in two splits" in captured.out
    assert "8 of 17 samples unreadable" in captured.out
    assert "fault: bad_json: 1 more samples; --limit 1 names all" in captured.err.splitlines()
    assert main(["check", str(mixed), "--sheet", str(sheet), "--limit", "0"]) == 1  # a sheet takes its place
    with Image.open(sheet) as shown:
        colours = {colour for _, colour in shown.convert("RGB").getcolors(1 << 20)}
    assert {(3, 100, 200), (50, 100, 200)} <= colours  # pictures from both splits, with their own colours


def test_a_shard_that_is_replaced_meanwhile_is_not_called_unreadable(copied, monkeypatch):
    from datamodules.prepare import image_check

    file, content, _ = copied
    read_all = image_check.read_all

    def replaced(*arguments):
        (file.parent / "new").write_bytes(content[:1024] + content)
        (file.parent / "new").rename(file)
        read_all(*arguments)

    monkeypatch.setattr(image_check, "read_all", replaced)
    report = check_images(str(file.parent))
    assert (report.faults, report.unreadable) == ([f"{file}: changed while it was checked; check it again"], [])


def test_a_folder_that_was_not_made_here_is_checked(tmp_path, capsys):
    with tarfile.open(tmp_path / "00000.tar", "w") as tar:  # unsorted, with a folder and links, as tar -c makes them
        for number in range(3):
            for name, content in (("jpg", picture(number, suffix="jpeg")), ("txt", b"a caption")):
                info = tarfile.TarInfo(f"./{number:05d}.{name}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    assert main(["check", str(tmp_path)]) == 0
    assert main(["check", str(tmp_path / "{00000..00000}.tar")]) == 0
    assert main(["check", str(tmp_path / "00000.tar"), "--quick"]) == 0
    assert "sound" in capsys.readouterr().out


def test_what_cannot_be_checked_is_one_line(tmp_path, capsys):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(picture(1))
    for arguments, message in [
        ([str(tmp_path / "pictures")], "prepare folder"),
        ([str(tmp_path / "nowhere")], "no such file or folder"),
        ([str(tmp_path), "--sheet", "a.jpg"], ".png"),
    ]:
        assert main(["check", *arguments]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert message in lines[0]


@pytest.mark.parametrize(
    "sheet", ["photo.png", "file/x.png", "folder.png", "s3://b/x.png", "s3://x.png", "/proc/x.png"]
)
def test_a_sheet_that_cannot_be_written_is_refused_before_anything_is_read(tmp_path, monkeypatch, capsys, sheet):
    monkeypatch.chdir(tmp_path)
    for name in ("photo.png", "file"):
        Path(name).write_bytes(picture(1))
    Path("folder.png").mkdir()
    write(tmp_path / "shards", {"a": sample(1)})
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    assert main(["check", "shards", "--sheet", sheet]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: --sheet ")
    assert captured.err.count("\n") == 1
    assert not captured.out
    assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == before


class Canary:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_hostile_shard_runs_and_writes_nothing(tmp_path, monkeypatch, capsys):
    canary, shard = tmp_path / "canary", tmp_path / "shards" / "train-000000.tar"
    shard.parent.mkdir()
    monkeypatch.chdir(shard.parent)
    poison = pickle.dumps(Canary(canary))
    objects = io.BytesIO()
    np.save(objects, np.array([Canary(canary)], dtype=object))
    good = {"png": picture(1), "txt": b"good"}
    extras = {f"x{i}.{end}": poison for i, end in enumerate(("pkl", "pickle", "pyd", "pth", "pyd.gz", "json.gz"))}
    names = {f"../up.{name}": content for name, content in good.items()} | {"/abs.png": good["png"], "/abs.txt": b"abs"}
    names |= {"\x1b[2Jclear.png": b"no picture", "a.npy": objects.getvalue(), "a.png": good["png"], "a.txt": b"a"}
    with tarfile.open(shard, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, target in (("b.txt", tarfile.SYMTYPE, "/etc/passwd"), ("c.txt", tarfile.LNKTYPE, "../a")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            tar.addfile(info)
        for name, kind in (("d.png", tarfile.CHRTYPE), ("e.png", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type = kind
            tar.addfile(info)
        for name, content in (names | extras).items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    before = {path: os.stat(path) for path in tmp_path.rglob("*")}
    assert main(["check", str(shard.parent)]) == 1
    captured = capsys.readouterr()
    report = check_images(str(shard.parent))
    assert {path: os.stat(path) for path in tmp_path.rglob("*")}.keys() == before.keys()
    assert not canary.exists()
    assert len(report.splits["train"].captions) == 3  # ../up, /abs and a
    assert "\x1b" not in captured.out + captured.err
    pickle.loads(poison)
    assert canary.exists()  # the poison works where it is unpickled


def test_keys_cannot_steer_a_terminal():
    assert printable("a\x1b[2J\r\nb\u202ec é") == r"a\x1b[2J\r\nb\u202ec é"


def test_the_command_itself(small, monkeypatch, capsys):
    """`python -m datamodules.prepare check DIR`, in this process."""
    monkeypatch.setattr(sys, "argv", ["prepare", "check", str(small[0])])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("datamodules.prepare", run_name="__main__")
    out, err = capsys.readouterr()
    assert (end.value.code, err) == (0, "")
    assert "sound: 3 samples" in out
