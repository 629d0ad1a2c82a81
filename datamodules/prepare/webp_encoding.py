"""Pictures as WebP files, exact or as small as a tar shard rewards: a member fills whole blocks of 512 bytes."""

import io
from itertools import takewhile

import numpy as np

BLOCK = 512
USUAL_BYTES = 1024
GOOD_DB = 34.0  # a picture this close to its original need not fill a second block
LEAST_DB = 31.0  # one further away may fill a third
PALETTES = (6, 8, 12, 16, 24, 32, 48, 64, 96)
QUALITIES = (30, 45, 60, 70, 80, 88)


def exact_webp(picture) -> bytes:
    """Lossless bytes of a PIL picture, RGB or RGBA."""
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", lossless=True, quality=75, method=4)
    return buffer.getvalue()


def compact_webp(picture) -> bytes:
    """A PIL RGB picture in one block of 512 bytes if that reaches 34 dB, else in two, in three if two miss 31 dB.

    Candidates are the exact picture, reduced palettes (sharp at the edges of flat drawings, where the halved colour
    resolution of lossy WebP is not) and lossy qualities (for smooth shading); the one with the highest PSNR wins.
    """
    exact = exact_webp(picture)
    limit = USUAL_BYTES
    while len(exact) > BLOCK:
        found = [(np.inf, exact)] if len(exact) <= limit else []
        for ladder in (_palettes(picture), _lossy(picture)):
            fitting = takewhile(lambda content, most=limit: len(content) <= most, ladder)  # sizes grow along a ladder
            found += [(psnr(content, picture), content) for content in fitting]
        small = max((candidate for candidate in found if len(candidate[1]) <= BLOCK), default=(0.0, b""))
        if small[0] >= GOOD_DB:
            return small[1]
        if found and (limit > USUAL_BYTES or max(found)[0] >= LEAST_DB):
            return max(found)[1]
        limit = limit * 3 // 2
    return exact


def _palettes(picture):
    from PIL import Image

    for colours in PALETTES:
        few = picture.quantize(colours, method=Image.Quantize.MEDIANCUT, kmeans=3, dither=Image.Dither.NONE)
        yield exact_webp(few.convert("RGB"))


def _lossy(picture):
    for quality in QUALITIES:
        buffer = io.BytesIO()
        picture.save(buffer, "WEBP", quality=quality, method=4)
        yield buffer.getvalue()


def psnr(content: bytes, original) -> float:
    """Peak signal-to-noise ratio in dB of an encoded picture against the PIL RGB original; infinite when equal."""
    from PIL import Image

    decoded = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), dtype=np.float64)
    error = ((decoded - np.asarray(original, dtype=np.float64)) ** 2).mean()
    return float(10 * np.log10(255**2 / error)) if error else np.inf
