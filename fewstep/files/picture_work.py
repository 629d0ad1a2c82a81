"""How much work a picture asks for, from the bytes of its file, before any pixel is decoded."""

import math

SCANS = 16  # of a progressive JPEG that count as one pass; files in use have about ten
RLE = 16  # Pillow reads run lengths in Python, and four bytes can stand for 255 rows
BMP_RUN_LENGTHS = (1, 2)
MAX_EXTENSIONS = 1 << 20  # bytes of a GIF before its first frame; Pillow joins them with quadratic work


def passes(data: bytes) -> int:
    """How many times the work, in time or memory, of decoding a plain picture of as many pixels; 1 for most.

    A limit on pixels means pixels x passes: interlacing and 16-bit values of a PNG, many scans of a JPEG, and run
    lengths in a BMP make small files expensive.
    """
    if data.startswith(b"\x89PNG"):
        return (2 if data[24:25] == b"\x10" else 1) * (2 if data[28:29] == b"\x01" else 1)
    if data.startswith(b"\xff\xd8"):
        return max(1, math.ceil(data.count(b"\xff\xda") / SCANS))
    if data.startswith(b"BM") and int.from_bytes(data[30:34], "little") in BMP_RUN_LENGTHS:
        return RLE
    return 1


def check_work(data: bytes, width: int, height: int, max_pixels: int) -> None:
    """ValueError in one line if decoding a picture of this size is more work than `max_pixels` plain pixels are."""
    times = passes(data)
    if width * height * times > max_pixels:
        count = f", which count {times} times as they are stored" if times > 1 else ""
        raise ValueError(f"{width} x {height} pixels{count}, the limit is {max_pixels}")


def before_frame(data: bytes) -> int:
    """Bytes of a GIF between its palette and its first frame, counted up to a little more than MAX_EXTENSIONS."""
    start = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    at, end = start, min(len(data), start + MAX_EXTENSIONS + 1)
    while at < end and data[at] != 0x2C:
        if data[at] == 0x21:  # an extension: its kind, then blocks with their lengths
            at += 2
            while at < end and data[at]:
                at += 1 + data[at]
        at += 1  # also: a stray byte
    return at - start
