"""Small pictures in every format, and the parts to make hostile ones of."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

SMOOTH = np.asarray(
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 7, 4), dtype=np.uint8)).resize((48, 32), 3)
)  # [32, 48, 4]
RGB, RGBA = Image.fromarray(SMOOTH[..., :3]), Image.fromarray(SMOOTH)


def encoded(picture: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *chunks: bytes) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"".join([b"\x89PNG\r\n\x1a\n", head, *chunks, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")])


def webp_head(kind: bytes, body: bytes) -> bytes:
    content = b"WEBP" + kind + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", len(content)) + content
