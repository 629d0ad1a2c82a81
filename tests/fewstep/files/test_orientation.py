"""One rule for which way up a picture lies: Pillow's, over containers, byte orders, types and places."""

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from fewstep.files.orientation import orientation, without_words

XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" %s/></x>'


def saved(form: str, **options) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


def tiff(value: int, order: str = "<", kind: str = "H", others: int = 0) -> bytes:
    """A directory of `others` fields before the orientation."""
    number = {"B": 1, "H": 3, "I": 4, "b": 6, "h": 8, "i": 9, "f": 11}[kind]
    fields = b"".join(struct.pack(f"{order}HHII", 0x100 + n, 4, 1, n) for n in range(others))
    own = struct.pack(f"{order}HHI", 0x112, number, 1) + struct.pack(order + kind, value).ljust(4, b"\0")
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(f"{order}IH", 8, others + 1) + fields + own + bytes(4)


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def segments(*contents: bytes) -> bytes:
    data = saved("JPEG")
    return data[:2] + b"".join(b"\xff\xe1" + struct.pack(">H", len(c) + 2) + c for c in contents) + data[2:]


def profile(value: int) -> PngImagePlugin.PngInfo:
    content = b"Exif\0\0" + tiff(value)
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", f"\nexif\n{len(content):8}\n{content.hex()}\n", zip=value % 2 == 0)
    return info


def png_with(extra: bytes, last: bool = False) -> bytes:
    data = saved("PNG")
    at = len(data) - 12 if last else 33
    return data[:at] + extra + data[at:]


def written(value: int) -> dict[str, bytes]:
    """The same orientation in every place where writers put it."""
    exif, packet = b"Exif\0\0" + tiff(value), XMP % (b'tiff:Orientation="%d"' % value)
    other = b"Exif\0\0" + tiff(1 + value % 8)
    adobe = b"http://ns.adobe.com/xap/1.0/\0" + packet
    element = b"http://ns.adobe.com/xap/1.0/\0<tiff:Orientation>%d</tiff:Orientation>" % value
    places = {f"jpeg {o}{k}": segments(b"Exif\0\0" + tiff(value, o, k, 3)) for o in "<>" for k in "BHIbhif"}
    places |= {"two": segments(exif, other), "xmp": segments(adobe), "element": segments(element)}
    places |= {"both": segments(adobe, other), "late": segments(b"x" * 60000, exif)}
    places |= {"png": saved("PNG", exif=exif), "profile": saved("PNG", pnginfo=profile(value))}
    places |= {"png xmp": png_with(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + packet))}
    places |= {"png packed": png_with(chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(packet)))}
    places |= {"png at the end": png_with(chunk(b"eXIf", tiff(value)), last=True)}
    places |= {"webp": saved("WEBP", exif=exif), "webp xmp": saved("WEBP", xmp=packet), "gif": saved("GIF")}
    return places


@pytest.mark.parametrize("value", range(10))
def test_pillow_turns_as_told(value):
    for place, data in written(value).items():
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
            told = picture.getexif().get(0x0112, 1)
            assert orientation(data) == (told if told in range(1, 9) else 1), place


@pytest.mark.parametrize("value", range(1, 9))
def test_both_readers_give_the_pixels_of_exif_transpose(value, tmp_path):
    from datamodules.image_decoding import decode_image, image_size
    from fewstep.files.pictures import _opened

    data = saved("PNG", exif=b"Exif\0\0" + tiff(value))
    (tmp_path / "a.png").write_bytes(data)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert np.array_equal(decode_image(data).permute(1, 2, 0).numpy(), expected)
    assert np.array_equal(np.asarray(_opened(tmp_path / "a.png")), expected)
    assert image_size(data) == (expected.shape[1], expected.shape[0])


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_damage_is_upright_or_a_number_and_never_raises(form):
    rng, exif = np.random.default_rng(0), b"Exif\0\0" + tiff(6, others=2)
    data = saved(form, exif=exif)
    for _ in range(1500):
        damaged = bytearray(data[: rng.integers(1, len(data) + 1)])
        damaged[rng.integers(len(damaged))] = rng.integers(256)
        assert orientation(bytes(damaged)) in range(1, 9)


@pytest.mark.parametrize("name", [b"tEXt", b"zTXt", b"iTXt", b"iCCP"])
def test_long_words_in_a_png_cost_neither_the_picture_nor_memory(name):
    from datamodules.image_decoding import decode_image

    plain = saved("PNG")
    key = b"XML:com.adobe.xmp"
    packed = zlib.compress(bytes(1 << 24))
    content = {b"tEXt": b"\0" + b"w" * (1 << 21), b"iTXt": b"\0\1\0\0\0" + packed}.get(name, b"\0\0" + packed)
    data = png_with(chunk(name, key + content) * 3)
    tracemalloc.start()
    pixels = decode_image(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert bool((pixels == decode_image(plain)).all())
    assert without_words(data) == plain
    assert peak < 3 * len(data) + (1 << 22)
