"""Damaged and hostile pictures: every kind is named, no decoder runs on a header's word, nothing kills the process."""

import contextlib
import multiprocessing
import pickle
import resource
import struct
import zlib

import numpy as np
import pytest
import torch

from datamodules import image_decoding
from datamodules.bad_sample import KINDS, BadSample
from datamodules.image_decoding import decode_image, image_size
from tests.datamodules.pictures import RGB, RGBA, chunk, encoded, png, webp_head

WHOLE = {
    "baseline": encoded(RGB, "JPEG", quality=80),
    "progressive": encoded(RGB, "JPEG", quality=80, progressive=True),
    "restarts": encoded(RGB, "JPEG", quality=80, restart_marker_blocks=1),
    "cmyk": encoded(RGB.convert("CMYK"), "JPEG", quality=80),
    "png": encoded(RGB, "PNG"),
    "palette": encoded(RGB.convert("P"), "PNG"),
    "webp": encoded(RGB, "WEBP"),
    "lossless": encoded(RGB, "WEBP", lossless=True),
    "alpha": encoded(RGBA, "WEBP"),
}


def kind_of(data: bytes, **options) -> str:
    with pytest.raises(BadSample) as caught:
        decode_image(data, **options)
    assert "\n" not in str(caught.value)
    return caught.value.kind


@pytest.mark.parametrize("name", WHOLE)
def test_every_cut_is_found(name):
    data = WHOLE[name]
    wrong = {}
    for length in {*range(30, len(data), 7), *range(len(data) - 20, len(data))}:
        try:
            decode_image(data[:length])
        except BadSample as bad:
            if bad.kind == "truncated_image":
                continue
            wrong[length] = str(bad)
        else:
            wrong[length] = "decoded"
    assert wrong == {}
    assert torch.equal(decode_image(data + b"junk after the end"), decode_image(data))


def test_cut_jpeg_with_a_whole_thumbnail_inside():
    thumbnail, data = encoded(RGB.resize((8, 8)), "JPEG"), WHOLE["baseline"]
    inside = b"Exif\0\0" + thumbnail
    data = data[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(inside)) + inside + data[2:]
    assert decode_image(data).shape == (3, 32, 48)
    assert kind_of(data[:-1]) == kind_of(data[:-100]) == "truncated_image"


@pytest.mark.parametrize("name", WHOLE)
def test_damage_never_kills(name):
    rng = np.random.default_rng(3)
    for _ in range(150):
        data = bytearray(WHOLE[name])
        for at in rng.integers(2, len(data), 2):
            data[at] ^= 1 << int(rng.integers(8))
        try:
            image = decode_image(bytes(data), max_pixels=1 << 20)
        except BadSample:
            continue
        assert image.shape[0] == 3


def test_one_flipped_bit_in_a_png_is_found():
    data = bytearray(WHOLE["png"])
    data[data.index(b"IDAT") + 200] ^= 4
    assert kind_of(bytes(data)) == "not_an_image"


def jpeg_head(width: int, height: int) -> bytes:
    data = bytearray(WHOLE["baseline"])
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


HUGE = {
    "png": png(50_000, 50_000, 8, 2, b""),
    "jpeg": jpeg_head(65_535, 65_535),
    "webp lossy": webp_head(b"VP8 ", b"\x10\0\0\x9d\x01\x2a" + struct.pack("<HH", 16_383, 16_383)),
    "webp lossless": webp_head(b"VP8L", b"\x2f" + struct.pack("<I", 16_382 | 16_382 << 14)),
    "webp extended": webp_head(b"VP8X", b"\0\0\0\0" + (16_382).to_bytes(3, "little") * 2),
    "gif": encoded(RGB, "GIF")[:6] + struct.pack("<HH", 65_535, 65_535) + encoded(RGB, "GIF")[10:],
    "bmp": encoded(RGB, "BMP")[:18] + struct.pack("<ii", 50_000, -50_000) + encoded(RGB, "BMP")[26:],
}


@pytest.mark.parametrize("name", HUGE)
def test_the_limit_is_checked_before_any_decoder_runs(name, monkeypatch):
    def never(*_):
        raise AssertionError("a decoder was called")

    monkeypatch.setattr(image_decoding, "DECODERS", dict.fromkeys(image_decoding.DECODERS, never))
    monkeypatch.setattr(image_decoding, "READERS", dict.fromkeys(image_decoding.READERS, never))
    assert kind_of(HUGE[name]) == "too_large"
    assert min(image_size(HUGE[name])) > 16_000


def test_the_limit_is_exact():
    assert decode_image(WHOLE["png"], max_pixels=48 * 32).shape == (3, 32, 48)
    assert kind_of(WHOLE["png"], max_pixels=48 * 32 - 1) == "too_large"


def test_lies_and_bombs_stay_small():
    """Headers below the limit without the pixels, and compressed text.

    Measured in a new process, not in a fork: in a fork of one that has run other tests the pages of the libraries,
    and holes of the old heap that the kernel fills, count as growth (141 MB were seen).
    """
    bomb = zlib.compress(bytes(400_000_000), 9)
    hostile = [
        *HUGE.values(),
        png(8000, 8000, 8, 2, b"\0" * 100),
        png(48, 32, 8, 2, bytes(145 * 32), chunk(b"zTXt", b"a\0\0" + bomb)),
        png(48, 32, 8, 2, bytes(145 * 32), chunk(b"iCCP", b"a\0\0" + bomb)),
        png(4, 4, 8, 2, bytes(400_000_000)),
        webp_head(b"VP8X", b"\x02\0\0\0" + (8000).to_bytes(3, "little") * 2),
    ]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        grown = pool.apply(memory_growth, (hostile,))
    assert grown < 100_000  # kilobytes; the least of them unpacked is 192,000, and 50,000 x 50,000 pixels 7.5 million


def memory_growth(pictures: list[bytes]) -> int:
    """By how many kilobytes the peak memory of this process rises while it decodes these."""
    for data in WHOLE.values():
        decode_image(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for data in pictures:
        with contextlib.suppress(BadSample):
            decode_image(data)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before


def test_a_scan_bomb_is_refused():
    data = WHOLE["progressive"]
    assert kind_of(data[:-2] + b"\xff\xda\0\x02" * 300 + data[-2:]) == "too_large"


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "empty_file"),
        (b"<html>404</html>", "not_an_image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not_an_image"),
        (encoded(RGB, "TIFF"), "not_an_image"),
        (pickle.dumps(print), "not_an_image"),
        (b"\xff\xd8\xff\xd9", "truncated_image"),
        (b"\xff\xd8\xff\xe0\0\x02\xff\xd9\0\0", "not_an_image"),
        (b"RIFF\x10\0\0\0WEBPWHAT" + bytes(12), "not_an_image"),
        (b"\x89PNG\r\n\x1a\n" + chunk(b"IDAT", bytes(20)), "not_an_image"),
        (png(0, 4, 8, 2, b""), "not_an_image"),
        (b"GIF89a" + bytes(20), "not_an_image"),
        (b"BM" + bytes(60), "not_an_image"),
    ],
)
def test_what_is_no_image(data, kind):
    assert kind_of(data) == kind
    with pytest.raises(BadSample, match=kind):
        image_size(data)


def test_a_second_frame_header_is_refused():
    data = WHOLE["baseline"]
    at = data.index(b"\xff\xc0")
    second = data[at : at + 19]
    assert kind_of(data[:at] + second + data[at:]) == "not_an_image"


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_sample_survives_the_way_between_processes(kind):
    bad = pickle.loads(pickle.dumps(BadSample(kind, "detail")))
    assert (bad.kind, bad.detail, str(bad)) == (kind, "detail", f"{kind}: detail")
