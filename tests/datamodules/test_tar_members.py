"""The tar parser against tarfile and GNU tar, every cut and flipped header byte, and hostile archives."""

import io
import mmap
import os
import re
import shutil
import subprocess
import tarfile
import tracemalloc

import numpy as np
import pytest

from datamodules.tar_members import Member, tar_members

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
CONTENT = {"a.txt": b"caption", "a.jpg": bytes(range(256)) * 5, "empty.txt": b"", "d/" + "e" * 90 + ".png": b"x" * 512}


def tar_of(content: dict[str, bytes], kind: int = tarfile.USTAR_FORMAT, extras: list[tarfile.TarInfo] = ()) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as tar:
        for info in extras:
            tar.addfile(info)
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def special(name: str, kind: bytes, **values) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for attribute, value in values.items():
        setattr(info, attribute, value)
    return info


def by_tarfile(raw: bytes) -> list[Member]:
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        return [Member(info.name, info.offset_data, info.size) for info in tar if info.isreg()]


def header(
    name: bytes = b"a.txt", size: bytes = b"00000000005\0", kind: bytes = b"0", checksum: str = "%06o\0 "
) -> bytes:
    """One header block made by hand, with its checksum."""
    block = bytearray(name.ljust(100, b"\0") + b"0000644\0" * 3 + size + b"0" * 11 + b"\0" + b" " * 8 + kind)
    block += bytes(100) + b"ustar\x0000" + bytes(512 - 265)
    block[148:156] = (checksum % sum(block)).encode().ljust(8)[:8]
    return bytes(block)


def pax(records: bytes, kind: bytes = b"x") -> bytes:
    return header(b"pax", b"%011o\0" % len(records), kind) + records.ljust(-(-len(records) // 512) * 512, b"\0")


def record(name: bytes, value: bytes) -> bytes:
    """A PAX record, which begins with its own length."""
    rest = b" " + name + b"=" + value + b"\n"
    length = next(n for n in range(len(rest), len(rest) + 9) if len(b"%d" % n) + len(rest) == n)
    return b"%d" % length + rest


BODY, END = b"hello".ljust(512, b"\0"), bytes(1024)


@pytest.mark.parametrize("kind", FORMATS)
def test_what_tarfile_writes_and_reads_is_read(kind):
    long = {} if kind == "ustar" else {"l" * 150 + ".txt": b"long", "d/" * 200 + "x.json": b"{}", "ünï/cödé.txt": b"u"}
    links = [
        special("folder", tarfile.DIRTYPE),
        special("link.txt", tarfile.SYMTYPE, linkname="/etc/passwd"),
        special("hard.txt", tarfile.LNKTYPE, linkname="t" * (90 if kind == "ustar" else 190)),
        special("device.txt", tarfile.CHRTYPE),
        special("fifo.txt", tarfile.FIFOTYPE),
    ]
    raw = tar_of(CONTENT | long, FORMATS[kind], links)
    members, fault, left_out = tar_members(raw)
    assert (members, fault, len(left_out)) == (by_tarfile(raw), None, 4)
    assert len(tar_members(raw).members) == len(CONTENT | long)


@pytest.mark.skipif(not shutil.which("tar"), reason="no tar program")
@pytest.mark.parametrize("kind", ["v7", "ustar", "gnu", "oldgnu", "pax"])
def test_what_a_tar_program_writes_is_read(tmp_path, kind):
    names = ["one.txt", "two.jpg", "sub/three.json"] + ([] if kind == "v7" else [f"{'s' * 90}/{'n' * 90}.txt"])
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(name.encode() * 300)
    command = ["tar", f"--format={kind}", "-cf", str(tmp_path / "out.tar"), "-C", str(tmp_path / "in"), "."]
    subprocess.run(command, check=True)
    raw = (tmp_path / "out.tar").read_bytes()
    members, fault, _ = tar_members(raw)
    assert fault is None
    assert {name: raw[start : start + size] for name, start, size in members} == {
        f"./{name}": name.encode() * 300 for name in names
    }


def test_any_buffer_is_read_and_let_go(tmp_path):
    raw = tar_of(CONTENT)
    (tmp_path / "a.tar").write_bytes(raw)
    expected = tar_members(raw)
    assert tar_members(memoryview(raw)) == tar_members(np.memmap(tmp_path / "a.tar", np.uint8, "r")) == expected
    with open(tmp_path / "a.tar", "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        assert tar_members(view) == expected  # leaving the block closes the map: nothing may still point into it


@pytest.mark.parametrize("checksum", ["%06o\0 ", "%07o\0", "%06o \0", "%7o\0", "%6o\0 "])
@pytest.mark.parametrize(
    "size", [b"00000000005\0", b"          5\0", b"00000000005 ", b"000000000005", b"5\0" + bytes(10)]
)
def test_numbers_are_read_as_writers_differ(checksum, size):
    assert tar_members(header(size=size, checksum=checksum) + BODY + END) == ([Member("a.txt", 512, 5)], None, [])


def test_base_256_sizes_and_pax_overrides():
    binary = b"\x80" + (5).to_bytes(11, "big")
    assert tar_members(header(size=binary) + BODY + END).members == [Member("a.txt", 512, 5)]
    own = pax(record(b"path", b"ab.c") + record(b"size", b"0000005")) + header(size=b"0" * 11 + b"\0") + BODY
    assert tar_members(own + header(b"next.txt") + BODY + END).members == [
        Member("ab.c", 1536, 5),
        Member("next.txt", 2560, 5),
    ]
    shared = pax(record(b"path", b"ab.c"), b"g") + (header() + BODY) * 2 + END
    assert [member.name for member in tar_members(shared).members] == ["ab.c", "ab.c"]


@pytest.mark.parametrize("kind", FORMATS)
def test_every_cut_is_noticed_and_the_members_before_it_are_kept(kind):
    raw = tar_of(CONTENT, FORMATS[kind])
    whole = tar_members(raw).members
    end = -(-len(raw.rstrip(b"\0")) // 512) * 512  # where the zeros of the end begin
    for cut in [*range(0, len(raw) + 1, 512), 100, 700, end + 5, end + 1029]:
        members, fault, _ = tar_members(raw[:cut])
        assert members == [member for member in whole if member.offset + member.size <= cut]
        if cut % 512 or cut < end + 1024:
            assert fault is not None
            assert "byte" in fault
            assert "\n" not in fault
        else:  # more zeros than an archive needs: only their number in an index tells that some are gone
            assert fault is None


@pytest.mark.parametrize("mask", [0x01, 0x20, 0x80, 0xFF])
def test_every_flipped_header_byte_is_noticed(mask):
    raw = bytearray(tar_of(CONTENT))
    whole = tar_members(raw).members
    headers = [member.offset - 512 for member in whole]
    end = whole[-1].offset + 512
    for at in [*headers, end, end + 512]:
        for position in range(at, at + 512):
            raw[position] ^= mask
            members, fault, _ = tar_members(raw)
            raw[position] ^= mask
            assert fault is not None, position - at
            assert members == [member for member in whole if member.offset <= at]


def test_flipped_extension_headers_are_noticed():
    for kind in ("gnu", "pax"):
        raw = bytearray(tar_of({"n" * 150 + ".txt": b"x"}, FORMATS[kind]))
        for position in range(512):
            raw[position] ^= 0xFF
            assert tar_members(raw).fault is not None
            raw[position] ^= 0xFF


HUGE = tarfile.TarInfo("a.txt")
HUGE.size = 1 << 60


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (header(size=b"77777777777\0") + BODY + END, r"at byte 1024 declares 8589934591 bytes, 1536 are left"),
        (HUGE.tobuf(tarfile.GNU_FORMAT) + BODY + END, "declares 1152921504606846976 bytes"),
        (header(size=b"\xff" * 12) + BODY + END, "declares the size"),
        (header(size=b"-0000000512\0") + BODY + END, "declares the size"),
        (header(size=b"0o000000005\0") + BODY + END, "declares the size"),
        (header(size=b"0000_0000_5\0") + BODY + END, "declares the size"),
        (header(size=bytes(12)) + BODY + END, "declares the size"),
        (header(kind=b"L", size=b"77777777777\0") + BODY + END, "extended header at byte 1024 declares"),
        (header(kind=b"x", size=b"00004000001\0") + bytes(1 << 21) + END, "extended header at byte 1024 declares"),
        (pax(b"99999999999999999999 path=a\n") + header() + BODY + END, "damaged extended header"),
        (pax(b"9999 path=a\n") + header() + BODY + END, "damaged extended header"),
        (pax(b"0 path=a\n") + header() + BODY + END, "damaged extended header"),
        (pax(b"11 path=aXY") + header() + BODY + END, "damaged extended header"),
        (pax(record(b"size", b"9" * 20)) + header() + BODY + END, "declares"),
        (pax(record(b"size", b"9" * 21)) + header() + BODY + END, "declares the size"),
        (pax(record(b"size", b"-512")) + header() + BODY + END, "declares the size"),
        (header() + BODY + bytes(512) + header() + END, "byte 2560"),
        (header() + BODY + END + header() + BODY + END, "data behind the end of the archive at byte 3072"),
    ],
)
def test_what_makes_no_sense_is_a_fault_and_costs_no_memory(raw, message):
    tracemalloc.start()
    members, fault, _ = tar_members(header(b"first.txt") + BODY + raw)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert members[0] == Member("first.txt", 512, 5)  # what comes before the fault is kept
    assert re.search(message, fault)
    assert "\n" not in fault
    assert peak < len(raw) + (1 << 20)


def test_long_names_end_where_they_end_and_strange_ones_are_printable():
    raw = header(kind=b"L", size=b"%011o\0" % 200) + (b"n" * 120 + b"\0junk").ljust(512, b"\0") + header() + BODY + END
    assert tar_members(raw).members == [Member("n" * 120, 1536, 5)]
    assert tar_members(header(b"\xff\xfe.txt") + BODY + END).members[0].name == r"\xff\xfe.txt"
    assert tar_members(header(b"old/", kind=b"\0", size=b"0" * 11 + b"\0") + END) == ([], None, [])  # a folder of 1979


def test_many_members_stay_small():
    raw = header(size=b"0" * 11 + b"\0") * 20_000 + END
    tracemalloc.start()
    members, fault, _ = tar_members(raw)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (len(members), fault) == (20_000, None)
    assert peak < len(raw)


def test_nothing_is_written_or_followed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    extras = [special("k.txt", tarfile.SYMTYPE, linkname="/etc/passwd"), special("/dev/k.jpg", tarfile.BLKTYPE)]
    raw = tar_of({"../up.txt": b"1", "/abs.txt": b"2", "a/../../b.txt": b"3"}, extras=extras)
    assert [member.name for member in tar_members(raw).members] == ["../up.txt", "/abs.txt", "a/../../b.txt"]
    assert os.listdir(tmp_path) == []
