"""Pictures: the right colours, the right way up, against Pillow's own conversion and values computed by hand."""

import io
import struct
import warnings

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from datamodules import image_decoding
from datamodules.image_decoding import decode_image, image_size
from tests.datamodules.pictures import RGB, RGBA, SMOOTH, chunk, encoded, png


def decoded(data: bytes, *args) -> np.ndarray:
    """[H, W, 3], int."""
    image = decode_image(data, *args)
    assert image.dtype == torch.uint8
    assert image.shape[0] == 3
    assert image_size(data) == (image.shape[2], image.shape[1])
    return image.permute(1, 2, 0).numpy().astype(int)


def by_pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_blocks": 2}])
def test_jpeg_colours(options):
    data = encoded(RGB, "JPEG", quality=90, **options)
    assert np.abs(decoded(data) - by_pillow(data)).max() <= 2
    grey = encoded(RGB.convert("L"), "JPEG", quality=90, **options)
    assert np.abs(decoded(grey) - by_pillow(grey)).max() <= 2


def test_cmyk_jpeg_is_not_inverted():
    assert np.abs(decoded(encoded(RGB.convert("CMYK"), "JPEG", quality=98, subsampling=0)) - SMOOTH[..., :3]).max() < 25


def test_ycck_jpeg():
    # A flat picture whose four planes are relabelled YCCK: Adobe stores 255 - C, M, Y as YCbCr and 255 - K.
    luma, blue, red, key = 120, 110, 150, 200
    flat = Image.merge("CMYK", [Image.new("L", (16, 16), 255 - level) for level in (luma, blue, red, key)])
    data = encoded(flat, "JPEG", quality=100, subsampling=0)
    adobe = data.index(b"Adobe")
    assert data[adobe + 11] == 0
    ycck = data[: adobe + 11] + b"\x02" + data[adobe + 12 :]
    r = luma + 1.402 * (red - 128)
    g = luma - 0.344136 * (blue - 128) - 0.714136 * (red - 128)
    b = luma + 1.772 * (blue - 128)
    # libjpeg hands over 255 - R; taken as 255 - C it means C = R: the colour that shines back is (255 - R) K / 255.
    expected = [(255 - level) * key / 255 for level in (r, g, b)]
    assert np.abs(decoded(ycck) - np.array(expected)).max() <= 3


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "P"])
@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP"])
def test_lossless_colours(mode, kind):
    data = encoded(RGB.convert(mode), kind)
    expected = np.asarray(RGB.convert(mode).convert("RGB"))
    if (mode, kind) == ("RGB", "GIF"):
        expected = by_pillow(data)
    assert np.array_equal(decoded(data), expected)


def test_webp_colours():
    assert np.array_equal(decoded(encoded(RGB, "WEBP", lossless=True)), SMOOTH[..., :3])
    lossy = encoded(RGB, "WEBP", quality=80)
    assert np.abs(decoded(lossy) - by_pillow(lossy)).max() <= 2


@pytest.mark.parametrize(
    ("depth", "colour", "values", "expected"),
    [
        (16, 0, [[0], [255], [256], [65535]], [(0,) * 3, (0,) * 3, (1,) * 3, (255,) * 3]),
        (16, 2, [[256, 511, 65535], [0, 32768, 255]], [(1, 1, 255), (0, 128, 0)]),
        (16, 4, [[51200, 65535], [51200, 0]], [(200,) * 3, (10, 20, 30)]),
        (16, 6, [[512, 1024, 2048, 65535], [512, 1024, 2048, 0]], [(2, 4, 8), (10, 20, 30)]),
        (8, 4, [[200, 255], [200, 0], [200, 51]], [(200,) * 3, (10, 20, 30), (48, 56, 64)]),
    ],
)
def test_deep_and_grey_alpha_png(depth, colour, values, expected):
    rows = b"\0" + np.array(values, dtype=f">u{depth // 8}").tobytes()
    assert decoded(png(len(values), 1, depth, colour, rows), (10, 20, 30)).tolist() == [[list(p) for p in expected]]


@pytest.mark.parametrize(
    ("depth", "colour", "transparent", "rows", "seen"),
    [
        (8, 0, struct.pack(">H", 7), bytes([0, 7, 8]), [(10, 20, 30), (8, 8, 8)]),
        (16, 0, struct.pack(">H", 300), b"\0" + struct.pack(">HH", 300, 301), [(10, 20, 30), (1, 1, 1)]),
        (8, 2, struct.pack(">HHH", 1, 2, 3), bytes([0, 1, 2, 3, 1, 2, 4]), [(10, 20, 30), (1, 2, 4)]),
        (16, 2, struct.pack(">HHH", 256, 512, 768), b"\0" + struct.pack(">6H", 256, 512, 768, 0, 0, 0), None),
    ],
)
def test_colour_key_png(depth, colour, transparent, rows, seen):
    data = png(2, 1, depth, colour, rows, chunk(b"tRNS", transparent))
    assert decoded(data, (10, 20, 30)).tolist() == [[list(p) for p in seen or [(10, 20, 30), (0, 0, 0)]]]


def test_palette_with_half_transparent_entries():
    palette = chunk(b"PLTE", bytes([17, 34, 51, 68, 85, 102, 1, 2, 3]))
    data = png(3, 1, 8, 3, bytes([0, 0, 1, 2]), palette, chunk(b"tRNS", bytes([0, 51])))
    assert decoded(data, (255, 0, 100)).tolist() == [[[255, 0, 100], [218, 17, 100], [1, 2, 3]]]


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True, "exact": True})])
def test_every_alpha_rounds_to_nearest(kind, options):
    colour, alpha = np.meshgrid(np.arange(256), np.arange(256))
    rgba = np.stack([colour, 255 - colour, colour // 2, alpha], -1).astype(np.uint8)
    background = np.array([10, 200, 77])
    over = rgba[..., :3].astype(int) * alpha[..., None] + background * (255 - alpha[..., None])
    got = decoded(encoded(Image.fromarray(rgba), kind, **options), tuple(background.tolist()))
    assert np.array_equal(got, (2 * over + 255) // 510)  # no ties: 255 is odd


def test_gif_shows_its_first_frame_on_the_background():
    first = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    first.putpixel((1, 1), (255, 0, 0, 255))
    data = encoded(first, "GIF", save_all=True, append_images=[Image.new("RGBA", (4, 4), (0, 255, 0, 255))])
    got = decoded(data, (1, 2, 3))
    assert got[0, 0].tolist() == [1, 2, 3]
    assert got[1, 1].tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", ["WEBP", "PNG"])
def test_animation_shows_its_first_frame(kind):
    others = [Image.new("RGB", RGB.size, "green")]
    data = encoded(RGB, kind, save_all=True, append_images=others, **({"lossless": True} if kind == "WEBP" else {}))
    assert np.array_equal(decoded(data), SMOOTH[..., :3])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("kind", "picture", "options"),
    [("JPEG", RGB, {"quality": 90}), ("PNG", RGB, {}), ("WEBP", RGB, {"lossless": True}), ("WEBP", RGBA, {})],
)
def test_exif_orientation(kind, picture, options, orientation):
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "maker", orientation
    data = encoded(picture, kind, exif=exif, **options)
    reference = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if kind == "WEBP" and picture is RGBA:
        canvas = Image.new("RGB", reference.size, "white")
        canvas.paste(reference, mask=reference)
        reference = canvas
    reference = np.asarray(reference.convert("RGB")).astype(int)
    got = decoded(data)
    assert got.shape == reference.shape
    assert np.abs(got - reference).max() <= 2


@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_byte_orders_and_nonsense(order):
    def jpeg(value: int, start: int = 8) -> bytes:
        tiff = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, start)
        tiff += struct.pack(f"{order}HHHIHH", 1, 0x0112, 3, 1, value, 0)
        data = encoded(RGB, "JPEG")
        return data[:2] + b"\xff\xe1" + struct.pack(">H", 8 + len(tiff)) + b"Exif\0\0" + tiff + data[2:]

    assert image_size(jpeg(6)) == (32, 48)
    assert decoded(jpeg(6)).shape == (48, 32, 3)
    for nonsense in (jpeg(0), jpeg(9), jpeg(6, start=9999), jpeg(6, start=2**32 - 1)):
        assert image_size(nonsense) == (48, 32)


PLAIN = [("JPEG", {"quality": 80}), ("JPEG", {"progressive": True}), ("WEBP", {"quality": 80})]


@pytest.mark.parametrize(("kind", "options"), PLAIN)
def test_pillow_serves_where_torchvision_no_longer_decodes(kind, options, monkeypatch):
    data = encoded(RGB, kind, **options)
    expected = decoded(data)
    monkeypatch.setattr(image_decoding, "DECODERS", {})
    assert np.abs(decoded(data) - expected).max() <= 2


@pytest.mark.parametrize(("kind", "options"), [*PLAIN, ("PNG", {})])
def test_no_warning_and_the_bytes_stay_as_they_are(kind, options):
    data = encoded(RGB, kind, **options)
    copy = bytes(bytearray(data))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decode_image(data).add_(1)
    assert data == copy
