"""What a picture says about itself before any pixel is decoded: format, size, orientation, by a walk over its parts.

The walks take a few microseconds and trust nothing: lengths lead only forward, and where one leads beyond the end the
picture is truncated.
"""

import io
import struct
from typing import NamedTuple

from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile

from datamodules.bad_sample import BadSample
from fewstep.files.orientation import MOST_PARTS, SCAN, jpeg_segments, orientation
from fewstep.files.picture_work import MAX_EXTENSIONS, before_frame
from fewstep.one_line import one_line

MAX_SCANS = 256  # of a JPEG; progressive ones in use have about ten, and each costs a pass over all pixels
FRAME = struct.Struct(">BHHB")  # bits, height, width, components
CHUNK = struct.Struct(">I4s")  # of a PNG: length without name and checksum, name
SOF = frozenset((*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0)))


class Header(NamedTuple):
    """Stored size in pixels, EXIF orientation 1..8; `simple`: a JPEG in grey or three colours, an opaque still WebP."""

    format: str  # "jpeg", "png", "webp", "gif", "bmp"
    width: int
    height: int
    orientation: int = 1
    simple: bool = False


def read_header(data: bytes) -> Header:
    """BadSample: empty_file, not_an_image or truncated_image."""
    if not data:
        raise BadSample("empty_file")
    try:
        if data.startswith(b"\xff\xd8\xff"):
            header = _jpeg(data)
        elif data.startswith(b"\x89PNG\r\n\x1a\n"):
            header = _png(data)
        elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            header = _webp(data)
        elif data.startswith((b"GIF87a", b"GIF89a", b"BM")):
            header = _by_pillow(data)
        else:
            raise BadSample("not_an_image", f"starts with {data[:8].hex(' ')}; JPEG, PNG, WebP, GIF and BMP are read")
    except (struct.error, IndexError) as error:
        raise BadSample("truncated_image", f"the header runs past the end, byte {len(data)}") from error
    if not header.width or not header.height:
        raise BadSample("not_an_image", f"{header.width} x {header.height} pixels")
    return header


def _jpeg(data: bytes) -> Header:
    frame = None
    for at, marker, length in jpeg_segments(data):
        if marker == SCAN:
            break
        if marker == 0xD9 or length < 2:
            raise BadSample("not_an_image", f"JPEG without a picture, byte {at}")
        if marker in SOF:
            if frame is not None:
                raise BadSample("not_an_image", f"JPEG with a second frame, byte {at}")
            frame = (marker, *FRAME.unpack_from(data, at + 4))
    else:
        raise BadSample("too_large", f"JPEG with more than {MOST_PARTS} parts before its picture")
    if frame is None:
        raise BadSample("not_an_image", "JPEG without a frame header")
    if data.rfind(b"\xff\xd9", at) < 0:
        raise BadSample("truncated_image", f"JPEG without its end marker, {len(data)} bytes")
    _, _, height, width, components = frame
    if data.count(b"\xff\xda", at) > MAX_SCANS:
        raise BadSample("too_large", f"JPEG of more than {MAX_SCANS} scans")
    return Header("jpeg", width, height, orientation(data), components in (1, 3))


def _png(data: bytes) -> Header:
    if data[12:16] != b"IHDR":
        raise BadSample("truncated_image" if len(data) < 16 else "not_an_image", "PNG without a header")
    width, height = struct.unpack_from(">II", data, 16)
    at = 8
    for _ in range(MOST_PARTS):
        length, name = CHUNK.unpack_from(data, at)
        at += 12 + length
        if at > len(data):
            raise BadSample("truncated_image", f"PNG needs {at} bytes or more, has {len(data)}")
        if name == b"IEND":
            return Header("png", width, height, orientation(data))
    raise BadSample("too_large", f"PNG of more than {MOST_PARTS} chunks")


def _webp(data: bytes) -> Header:
    size = 8 + struct.unpack_from("<I", data, 4)[0]
    if size > len(data):
        raise BadSample("truncated_image", f"WebP needs {size} bytes, has {len(data)}")
    kind = data[12:16]
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return Header("webp", width & 0x3FFF, height & 0x3FFF, 1, True)
    if kind == b"VP8L" and data[20] == 0x2F:
        bits = struct.unpack_from("<I", data, 21)[0]
        return Header("webp", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, 1, not bits >> 28 & 1)
    if kind != b"VP8X":
        raise BadSample("not_an_image", f"WebP that starts with a {kind!r} chunk")
    flags = data[20]  # 0x02 animation, 0x10 alpha
    width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
    if len(data) < 30:
        raise IndexError
    return Header("webp", width, height, orientation(data), not flags & 0x12)


def _by_pillow(data: bytes) -> Header:
    """GIF and BMP are rare: Pillow reads their headers, and still no pixel."""
    kind, reader = ("bmp", BmpImageFile) if data.startswith(b"BM") else ("gif", GifImageFile)
    if kind == "gif" and before_frame(data) > MAX_EXTENSIONS:
        raise BadSample("too_large", f"GIF with more than {MAX_EXTENSIONS} bytes before its first frame")
    try:
        with reader(io.BytesIO(data)) as picture:
            return Header(kind, *picture.size)
    except Exception as error:  # Pillow raises whatever a damaged header leads to
        raise BadSample("not_an_image", f"damaged {kind}: {one_line(error)}"[:200]) from error
