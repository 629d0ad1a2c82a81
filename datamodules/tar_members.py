"""The files inside a tar, from its bytes: name, offset and size of each, and what is wrong with the archive.

Most readers take a damaged header for the end of the archive and drop the rest without a word. Here every header must
match its checksum and the archive must end in its zeros; else the members before the damage come with one line that
names the fault and its byte. Read: ustar, GNU long names, PAX `path`, `linkpath` and `size`, base-256 sizes. A link to
a member is read as that member; what holds no file of its own (devices, sparse files) is left out and named. Nothing is
extracted, and a hostile archive costs no more memory than one `Member` per 512 bytes of it.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from datamodules.tar_links import HARD, MACOS, SYMBOLIC, Member, Special, resolved

BLOCK = 512
ZEROS = bytes(BLOCK)
HEADER = struct.Struct("100s 24x 12s 12x 8s c 100s 6s 82x 155s 12x")  # name, size, checksum, type, link, magic, prefix
OCTAL = re.compile(rb" *([0-7]+)[ \0]*")
CHECKSUM = re.compile(rb" *([0-7]+)(?:\0 | \0|\0| )?")  # as tar writers end it; anything else was changed afterwards
PAX_RECORD = re.compile(rb"(\d{1,7}) ([^=]+)=")
REGULAR, DATALESS = b"\x000 7", b"123456"  # links, devices, directories and fifos are headers only
LINKS = {b"1": HARD, b"2": SYMBOLIC}
DEVICES = {b"3": "a character device", b"4": "a block device", b"6": "a named pipe"}
SPARSE = "a sparse file; pack the shard without --sparse"
NO_FILES = b"5DV"  # directories, those of incremental backups, and the label of a volume: no file is lost with them
LARGEST_EXTENSION = 1 << 20  # bytes of one long name or PAX header
MOST_SKIPPED_ZEROS = 1 << 20  # bytes compared with zeros at a time


class Members(NamedTuple):
    """The members that lie wholly before the fault, in file order; `fault` is None for a whole archive.

    left_out: one line for each member before it that cannot be read.
    """

    members: list[Member]
    fault: str | None
    left_out: list[str]


class DamagedTarError(ValueError):
    """One line: what is wrong, and at which byte."""


def tar_members(raw) -> Members:
    """The files of an uncompressed tar, given as bytes or anything with the buffer interface (mmap, memmap)."""
    entries: list[Member | Special] = []
    fault = None
    try:
        with memoryview(raw) as view:
            entries.extend(members_of(view))
    except DamagedTarError as error:
        fault = str(error)
    members, left_out = resolved(entries)
    return Members([member for member in members if MACOS not in member.name], fault, left_out)


def members_of(view: memoryview) -> Iterator[Member | Special]:
    """Each member in turn; DamagedTarError where the archive stops making sense."""
    at, length = 0, len(view)
    shared: dict[bytes, bytes] = {}  # PAX records for all members that follow
    own: dict[bytes, bytes] = {}  # PAX records, long name and long target of the next member
    while True:
        header = view[at : at + BLOCK].tobytes()
        if header == ZEROS:
            return check_end(view, at)
        name, size, kind, target = parse_header(header, at)
        start = at + BLOCK
        if kind in b"xXgLK":
            records = extension(view, kind, start, size)
            if kind == b"g":
                shared |= records
            else:
                own |= records
        else:
            records = {**shared, **own} if shared or own else {}
            if records:
                own = {}
                name, size, target = overrides(records, name, size, target, at)
            if kind in DATALESS:
                size = 0
            if kind == b"S":
                start += sparse_map(view, start, header)
            if size > length - start:
                raise DamagedTarError(f"the file at byte {at} declares {size} bytes, {length - start} are left")
            yield entry_of(name, start, size, kind, target, b"sparse" in records)
        at = start + -(-size // BLOCK) * BLOCK


def entry_of(name: bytes, start: int, size: int, kind: bytes, target: bytes, sparse: bool) -> Member | Special:
    """What one header stands for."""
    text = name.decode("utf-8", "backslashreplace")
    if kind == b"S" or sparse:
        return Special(text, SPARSE)
    if kind in REGULAR:
        return Special(text, "") if text.endswith("/") else Member(text, start, size)  # directories before ustar
    if kind in LINKS:
        return Special(text, LINKS[kind], target.decode("utf-8", "backslashreplace"))
    return Special(text, "" if kind in NO_FILES else DEVICES.get(kind, f"of the unknown kind {kind!r}"))


def sparse_map(view: memoryview, start: int, header: bytes) -> int:
    """Bytes that the list of pieces of an old GNU sparse file takes behind its header."""
    at, more = start, header[482]
    while more and at + BLOCK <= len(view):
        at, more = at + BLOCK, view[at + 504]
    return at - start


def parse_header(header: bytes, at: int) -> tuple[bytes, int, bytes, bytes]:
    """Name, size, type, link target of a header block; DamagedTarError unless it is complete and fits its checksum."""
    if len(header) < BLOCK:
        raise DamagedTarError(f"cut short at byte {at + len(header)}, before the end of the archive")
    name, size, checksum, kind, link, magic, prefix = HEADER.unpack(header)
    if zlib.adler32(header) & 0xFFFF != adler_of(checksum):
        raise DamagedTarError(f"damaged header at byte {at}")
    if digits := OCTAL.fullmatch(size):
        length = int(digits[1], 8)
    elif size[0] == 0x80:  # base 256
        length = int.from_bytes(size[1:], "big")
    elif not size.strip(b" \0") and kind in DATALESS + b"V":
        length = 0
    else:
        raise DamagedTarError(f"the file at byte {at} declares the size {size!r}")
    name = name.partition(b"\0")[0]
    if prefix[0] and magic == b"ustar\0":
        name = prefix.partition(b"\0")[0] + b"/" + name
    return name, length, kind, link.partition(b"\0")[0]


@lru_cache(maxsize=1 << 14)
def adler_of(checksum: bytes) -> int:
    """The low half of Adler-32 of a header with this checksum field, -1 if the field is not one.

    The checksum is the sum of all bytes of the header, its own field read as eight spaces. The low half of Adler-32 is
    the plain sum plus one, modulo 65521, and far faster than a sum in Python.
    """
    stated = CHECKSUM.fullmatch(checksum)
    return (int(stated[1], 8) - 8 * ord(" ") + sum(checksum) + 1) % 65521 if stated else -1


def extension(view: memoryview, kind: bytes, start: int, size: int) -> dict[bytes, bytes]:
    """The records that one extension header holds for the member that follows, of those that are used here."""
    if size > min(LARGEST_EXTENSION, len(view) - start):
        raise DamagedTarError(f"the extended header at byte {start - BLOCK} declares {size} bytes")
    content = view[start : start + size].tobytes()
    if kind in b"LK":  # the long name of a member, the long target of a link
        return {b"path" if kind == b"L" else b"linkpath": content}
    records, position = {}, 0
    while position < size:
        found = PAX_RECORD.match(content, position)
        stop = position + int(found[1]) if found else 0
        if not found or not found.end() < stop <= size or content[stop - 1 : stop] != b"\n":
            raise DamagedTarError(f"damaged extended header at byte {start - BLOCK}")
        if found[2] in (b"path", b"linkpath", b"size", b"GNU.sparse.name"):
            records[found[2]] = content[found.end() : stop - 1]
        if found[2].startswith(b"GNU.sparse."):
            records[b"sparse"] = b"1"
        position = stop
    return records


def overrides(records: dict[bytes, bytes], name: bytes, size: int, target: bytes, at: int) -> tuple[bytes, int, bytes]:
    """Name, size, link target of the member at byte `at` after its extension records; an empty one says nothing."""
    if stated := records.get(b"size"):
        if not stated.isdigit() or len(stated) > 20:
            raise DamagedTarError(f"the file at byte {at} declares the size {stated[:20]!r}")
        size = int(stated)
    path, link = (records.get(key, b"").partition(b"\0")[0] for key in (b"path", b"linkpath"))
    return records.get(b"GNU.sparse.name") or path or name, size, link or target


def check_end(view: memoryview, at: int) -> None:
    """DamagedTarError unless the archive ends at byte `at`: two blocks of zeros or more, and nothing else."""
    if len(view) - at < 2 * BLOCK or len(view) % BLOCK:
        raise DamagedTarError(f"cut short at byte {len(view)}, within the zeros that end the archive")
    for start in range(at, len(view), MOST_SKIPPED_ZEROS):
        chunk = view[start : start + MOST_SKIPPED_ZEROS].tobytes()
        if chunk.strip(b"\0"):
            offset = len(chunk) - len(chunk.lstrip(b"\0"))
            raise DamagedTarError(f"data behind the end of the archive at byte {start + offset}")
