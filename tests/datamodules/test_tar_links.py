"""Links and special members against tarfile, which resolves them inside the archive too, and against GNU tar."""

import io
import os
import random
import shutil
import subprocess
import tarfile

import pytest

from datamodules.sample_index import scan_shard
from datamodules.tar_links import MOST_LINES
from datamodules.tar_members import tar_members

FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
KINDS = (tarfile.REGTYPE, tarfile.CONTTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, b"Q")


def packed(members: list[tuple[str, bytes, str | bytes]], form: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar of (name, kind, content or link target)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            if isinstance(content, str):
                info.linkname = content
            else:
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return buffer.getvalue()


def ours(raw: bytes) -> list[tuple[str, bytes]]:
    return [(name, raw[at : at + size]) for name, at, size in tar_members(raw).members]


def by_tarfile(raw: bytes) -> list[tuple[str, bytes]]:
    """What tarfile hands out for files, and for links that lead to one inside; `Q` is no file here."""
    found = []
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        for info in tar.getmembers():
            if not (info.isreg() or info.islnk() or info.issym()):
                continue
            try:
                file = tar.extractfile(info)
            except (KeyError, RecursionError):
                continue
            if file is not None:
                found.append((info.name, file.read()))
    return found


def drawn(draw: random.Random) -> list[tuple[str, bytes, str | bytes]]:
    names = [f"{folder}{stem}{end}" for folder in ("", "a/", "a/b/") for stem in "xy" for end in (".jpg", "é" * 60)]
    targets = [*names, "../x.jpg", "./y.jpg", "b/z.jpg", "../a/b/x.jpg", "nowhere", "../../../etc/passwd", "a", "."]
    members = []
    for number in range(draw.randint(2, 12)):
        kind = draw.choice(KINDS[:-1])
        if kind in (tarfile.LNKTYPE, tarfile.SYMTYPE):
            members.append((draw.choice(names), kind, draw.choice(targets)))
        else:
            filled = kind not in (tarfile.DIRTYPE, tarfile.FIFOTYPE)
            content = str(number).encode() * draw.randint(0, 999) if filled else b""
            members.append((draw.choice(names), kind, content))
    return members


@pytest.mark.parametrize("form", FORMATS[1:])
def test_random_archives_read_as_tarfile_reads_them(form):
    links = 0
    for seed in range(400):
        members = drawn(random.Random(seed))
        raw = packed(members, form)
        assert ours(raw) == by_tarfile(raw), seed
        files, fault, left_out = tar_members(raw)
        assert fault is None
        wanted = [name for name, kind, _ in members if kind != tarfile.DIRTYPE]
        assert len(files) + len(left_out) == len(wanted)  # nothing is dropped without a line
        links += len(files) - sum(kind in (tarfile.REGTYPE, tarfile.CONTTYPE) for _, kind, _ in members)
    assert links > 50


@pytest.mark.parametrize(
    ("members", "line"),
    [
        ([("a.jpg", tarfile.SYMTYPE, "/etc/passwd")], "'a.jpg' is left out: it is a symbolic link to '/etc/passwd'"),
        ([("a.jpg", tarfile.LNKTYPE, "/etc/passwd")], "a hard link to '/etc/passwd', outside the archive"),
        ([("d/a.jpg", tarfile.SYMTYPE, "../../x.jpg")], "outside the archive"),
        ([("a.jpg", tarfile.SYMTYPE, "b.jpg")], "no file of the archive; pack the shard with tar --dereference"),
        ([("a.jpg", tarfile.LNKTYPE, "b.jpg"), ("b.jpg", tarfile.REGTYPE, b"1")], "no file of the archive"),
        ([("a.jpg", tarfile.SYMTYPE, "b.jpg"), ("b.jpg", tarfile.SYMTYPE, "a.jpg")], "to 'b.jpg'"),
        ([("a.jpg", tarfile.CHRTYPE, b"")], "a character device"),
        ([("a.jpg", tarfile.BLKTYPE, b"")], "a block device"),
        ([("a.jpg", tarfile.FIFOTYPE, b"")], "a named pipe"),
        ([("a.jpg", b"Q", b"some bytes")], "of the unknown kind b'Q'"),
        ([("a.jpg", b"M", b"the rest of a file")], "of the unknown kind b'M'"),
    ],
)
def test_what_cannot_be_read_is_named_and_the_rest_is_kept(members, line, tmp_path):
    raw = packed([("first.jpg", tarfile.REGTYPE, b"1"), *members, ("last.jpg", tarfile.REGTYPE, b"2")])
    files, fault, left_out = tar_members(raw)
    assert {"first.jpg", "last.jpg"} <= {name for name, _, _ in files}
    assert fault is None
    assert line in left_out[0]
    (tmp_path / "0.tar").write_bytes(raw)
    assert scan_shard(str(tmp_path / "0.tar"))[1][0] == f"{tmp_path}/0.tar: {left_out[0]}"


def test_directories_labels_and_what_macos_adds_lose_nothing():
    extras = [("d", tarfile.DIRTYPE, b""), ("label", b"V", b""), ("__MACOSX/d/x.jpg", tarfile.REGTYPE, b"no picture")]
    extras += [("._a.jpg", tarfile.SYMTYPE, "nowhere"), (".DS_Store", tarfile.REGTYPE, b"")]
    files, fault, left_out = tar_members(packed([*extras, ("a.jpg", tarfile.REGTYPE, b"1")]))
    assert [name for name, _, _ in files][-1] == "a.jpg"
    assert not any("MACOSX" in name for name, _, _ in files)
    assert (fault, left_out) == (None, [])


def test_many_specials_are_counted():
    count = MOST_LINES + 23
    left_out = tar_members(packed([(f"{n}.jpg", tarfile.SYMTYPE, "x" * 200) for n in range(count)])).left_out
    assert len(left_out) == MOST_LINES + 1
    assert left_out[-1] == "23 more members are left out"
    assert all(len(line) < 300 for line in left_out)


@pytest.mark.skipif(not shutil.which("tar"), reason="no tar program")
@pytest.mark.parametrize("form", ["gnu", "oldgnu", "pax"])
def test_links_and_sparse_files_of_gnu_tar(tmp_path, form):
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.txt").write_bytes(b"words")
    os.link(folder / "a.txt", folder / "b.txt")
    os.symlink("../a.txt", folder / "deep" / "c.txt")
    with open(folder / "holes.bin", "wb") as file:
        for place in range(30):  # enough pieces for headers behind the header
            file.seek(place << 17)
            file.write(b"x" * 4096)
    (folder / "z.txt").write_bytes(b"behind it")
    command = ["tar", f"--format={form}", "--sparse", "--label=name", "--sort=name", "-cf", str(tmp_path / "0.tar")]
    subprocess.run([*command, "-C", str(folder), "a.txt", "b.txt", "deep", "holes.bin", "z.txt"], check=True)
    raw = (tmp_path / "0.tar").read_bytes()
    assert ours(raw) == [(n, c) for n, c in by_tarfile(raw) if n != "holes.bin"]
    assert dict(ours(raw)) == {"a.txt": b"words", "b.txt": b"words", "deep/c.txt": b"words", "z.txt": b"behind it"}
    (line,) = tar_members(raw).left_out
    assert line == "'holes.bin' is left out: it is a sparse file; pack the shard without --sparse"
