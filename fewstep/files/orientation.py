"""Which way up a picture lies, and what of its file is only words: one rule for every reader of pictures.

The rule is that of Pillow's `ImageOps.exif_transpose`: the EXIF block, else the XMP packet. Nothing is decoded, and no
more than MOST_TEXT bytes are unpacked, whatever the file says.
"""

import re
import struct
import zlib
from collections.abc import Iterator

MOST_TEXT = 1 << 20  # bytes of one text that are unpacked
MOST_PARTS = 1 << 16  # segments, chunks or stray bytes that are walked over, a microsecond each
TAG = 0x0112
WORDS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf")  # chunks of a PNG that say nothing about its pixels
PNG, XMP = b"\x89PNG\r\n\x1a\n", b"http://ns.adobe.com/xap/1.0/\0"
NUMBERS = dict(zip((3, 4, 6, 8, 9, 11), "HIbhif", strict=True))  # TIFF types; to Pillow BYTE is no number
SEGMENT = struct.Struct(">BBH")  # of a JPEG: 0xFF, marker, length
SCAN, ALONE = 0xDA, frozenset((0x00, 0x01, *range(0xD0, 0xD9)))  # the first scan's marker; markers without a length
STATED = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')


def orientation(data: bytes) -> int:
    """EXIF orientation 1..8 of a JPEG, PNG or WebP file; 1 (upright) of anything else, and where it is damaged."""
    try:
        if data.startswith(b"\xff\xd8\xff"):
            exif, xmp = _of_jpeg(data)
        elif data.startswith(PNG):
            exif, xmp = _of_png(data)
        elif data.startswith(b"RIFF") and data[8:16] == b"WEBPVP8X":
            exif, xmp = _of_webp(data)
        else:
            return 1
        value = exif_orientation(re.sub(rb"^(Exif\0\0){1,2}", b"", exif))
        if value is None and (stated := STATED.search(xmp)):
            value = int(stated[1])
        return value if value is not None and 1 <= value <= 8 else 1
    except (struct.error, IndexError, ValueError, zlib.error):
        return 1


def exif_orientation(tiff: bytes) -> int | None:
    """The number in tag 0x0112 of the first directory of an EXIF block, of whatever type; None when absent."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    found = None
    if order is None:
        return None
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (entries,) = struct.unpack_from(f"{order}H", tiff, start)
        for at in range(start + 2, start + 2 + 12 * entries, 12):
            tag, kind, count = struct.unpack_from(f"{order}HHI", tiff, at)
            if tag == TAG and count:
                found = int(*struct.unpack_from(order + NUMBERS[kind], tiff, at + 8)) if count == 1 else 1
    except (struct.error, KeyError, ValueError, OverflowError):  # an end too early, no number
        pass
    return found


def without_words(data: bytes) -> bytes:
    """A PNG without its texts and profiles, which can be long or unpack to gigabytes; any other file as it is."""
    if not data.startswith(PNG):
        return data
    kept, start = [], 0
    for at, name, length in png_chunks(data):
        if name in WORDS:
            kept.append(data[start:at])
            start = at + 12 + length
    return b"".join([*kept, data[start:]]) if kept else data


def png_chunks(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """(place, name, length of the content) of each chunk up to IEND, or to where the file ends."""
    at, name = len(PNG), b""
    for _ in range(MOST_PARTS):
        if name == b"IEND" or at + 8 > len(data):
            break
        length, name = struct.unpack_from(">I4s", data, at)
        yield at, name, length
        at += 12 + length


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(offset, marker, length with its own two bytes) of every segment up to the first scan, MOST_PARTS at most.

    Markers are followed as libjpeg follows them, so both see the same frame. struct.error where the file ends before.
    """
    at = 2
    for _ in range(MOST_PARTS):
        start, marker, length = SEGMENT.unpack_from(data, at)
        if start != 0xFF or marker == 0xFF:  # libjpeg skips stray and fill bytes too
            at += 1
        elif marker in ALONE:
            at += 2
        else:
            yield at, marker, length
            if marker == SCAN:
                return
            at += 2 + max(2, length)


def _of_jpeg(data: bytes) -> tuple[bytes, bytes]:
    """EXIF blocks, joined, and the last XMP packet before the first scan."""
    exif, xmp = [], b""
    for at, marker, length in jpeg_segments(data):
        content = data[at + 4 : at + 2 + length] if marker == 0xE1 else b""
        if content.startswith(b"Exif\0\0"):
            exif.append(content[6:])
        elif content.startswith(XMP):
            xmp = content[len(XMP) :]
    return b"".join(exif), xmp


def _of_png(data: bytes) -> tuple[bytes, bytes]:
    exif, profile, xmp = b"", b"", b""  # texts as chunk name + content; the last of each counts
    for at, name, length in png_chunks(data):
        if name not in WORDS or name == b"iCCP":
            continue
        content = data[at + 8 : at + 8 + length]
        key = content.partition(b"\0")[0]
        if name == b"eXIf":
            exif = content
        elif key == b"Raw profile type exif":
            profile = name + content
        elif key == b"XML:com.adobe.xmp":
            xmp = name + content
    if not exif and profile:
        exif = bytes.fromhex("".join(_text(profile).decode("latin-1").split("\n")[3:]))
    return exif, _text(xmp)


def _text(chunk: bytes) -> bytes:
    """The words of a text chunk (name and content), at most MOST_TEXT bytes of them."""
    name, rest = chunk[:4], chunk[4:].partition(b"\0")[2]
    if name in (b"tEXt", b""):
        return rest[:MOST_TEXT]
    packed = name == b"zTXt" or rest[:1] == b"\1"
    if name == b"iTXt":
        rest = rest[2:].partition(b"\0")[2].partition(b"\0")[2]  # behind the language and the translated key
    else:
        rest = rest[1:]
    return zlib.decompressobj().decompress(rest, MOST_TEXT) if packed else rest[:MOST_TEXT]


def _of_webp(data: bytes) -> tuple[bytes, bytes]:
    """The first EXIF and XMP chunks that the flags of the file announce."""
    found, at, end = {b"EXIF": b"", b"XMP ": b""}, 12, min(len(data), 8 + struct.unpack_from("<I", data, 4)[0])
    wanted = {name for name, flag in ((b"EXIF", 0x08), (b"XMP ", 0x04)) if data[20] & flag}
    for _ in range(MOST_PARTS):
        if at + 8 > end or not wanted:
            break
        name, length = struct.unpack_from("<4sI", data, at)
        if name in wanted:
            found[name] = data[at + 8 : at + 8 + length]
            wanted.remove(name)
        at += 8 + length + length % 2
    return found[b"EXIF"], found[b"XMP "]
