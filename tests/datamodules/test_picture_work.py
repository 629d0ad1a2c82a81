"""Small files that would be expensive pictures: refused by what decoding them costs, not only by their pixels."""

import struct

import pytest

from datamodules import image_decoding
from datamodules.bad_sample import BadSample
from datamodules.image_decoding import decode_image
from datamodules.prepare.folder import stored_picture
from fewstep.files.orientation import MOST_PARTS
from fewstep.files.picture_work import MAX_EXTENSIONS, passes
from fewstep.files.pictures import read_picture
from tests.datamodules.pictures import RGB, chunk, encoded, png


def interlaced(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    plain = png(width, height, depth, colour, rows)
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 1)
    return plain[:8] + chunk(b"IHDR", head) + plain[33:]


def bmp(width: int, height: int, compression: int, runs: bytes) -> bytes:
    start, depth = 54 + 1024, 4 if compression == 2 else 8
    head = b"BM" + struct.pack("<IHHI", start + len(runs), 0, 0, start)
    head += struct.pack("<IiiHHIIiiII", 40, width, height, 1, depth, compression, len(runs), 0, 0, 256, 0)
    return head + bytes(1024) + runs


def progressive(scans: int) -> bytes:
    data = encoded(RGB, "JPEG", progressive=True)
    return data[:-2] + b"\xff\xda\0\x02" * (scans - data.count(b"\xff\xda")) + data[-2:]


COSTS = {
    "plain png": (png(9, 9, 8, 2, bytes(28 * 9)), 1),
    "interlaced png": (interlaced(9, 9, 8, 2, bytes(999)), 2),
    "png of 16 bits": (png(9, 9, 16, 0, bytes(19 * 9)), 2),
    "interlaced png of 16 bits": (interlaced(9, 9, 16, 6, bytes(9999)), 4),
    "baseline jpeg": (encoded(RGB, "JPEG"), 1),
    "progressive jpeg": (encoded(RGB, "JPEG", progressive=True), 1),
    "progressive jpeg of 160 scans": (progressive(160), 10),
    "webp": (encoded(RGB, "WEBP"), 1),
    "gif": (encoded(RGB, "GIF"), 1),
    "plain bmp": (encoded(RGB, "BMP"), 1),
    "run-length bmp": (bmp(9, 9, 1, b"\0\1"), 16),
    "run-length bmp of 4 bits": (bmp(9, 9, 2, b"\0\1"), 16),
}


@pytest.mark.parametrize("name", COSTS)
def test_a_picture_counts_as_what_it_costs(name, monkeypatch):
    data, times = COSTS[name]
    assert passes(data) == times

    def never(*_):
        raise AssertionError("a decoder was called")

    monkeypatch.setattr(image_decoding, "DECODERS", dict.fromkeys(image_decoding.DECODERS, never))
    monkeypatch.setattr(image_decoding, "READERS", dict.fromkeys(image_decoding.READERS, never))
    width, height = image_decoding.image_size(data)
    with pytest.raises(BadSample, match=f"too_large: {width} x {height} pixels") as caught:
        decode_image(data, max_pixels=width * height * times - 1)
    assert (f"count {times} times" in str(caught.value)) == (times > 1)


@pytest.mark.parametrize("compression", [1, 2])
def test_a_run_length_bmp_whose_bytes_stand_for_255_rows_is_refused(compression):
    runs = b"\0\2\0\xff" * 32 + b"\0\1"
    with pytest.raises(BadSample, match="too_large"):
        decode_image(bmp(8000, 8000, compression, runs))
    assert decode_image(bmp(8, 4, 1, b"\x08\x07\0\0" * 4 + b"\0\1")).shape == (3, 4, 8)


def comment(length: int) -> bytes:
    return b"\x21\xfe" + b"\xff".join([b"", *[bytes(255)] * (length // 256)]) + b"\0"


ENDLESS = {
    "jpeg segments": b"\xff\xd8" + b"\xff\xfe\0\x02" * (MOST_PARTS + 1) + encoded(RGB, "JPEG")[2:],
    "jpeg fill bytes": b"\xff\xd8" + b"\xff" * (MOST_PARTS + 1) + encoded(RGB, "JPEG")[2:],
    "jpeg stray bytes": b"\xff\xd8\xff\xfe\0\x02" + bytes(MOST_PARTS + 1) + encoded(RGB, "JPEG")[2:],
    "png chunks": encoded(RGB, "PNG")[:33] + chunk(b"IDAT", b"") * (MOST_PARTS + 1) + encoded(RGB, "PNG")[33:],
    "gif comments": encoded(RGB, "GIF")[:781] + comment(2 * MAX_EXTENSIONS) + encoded(RGB, "GIF")[781:],
    "gif stray bytes": encoded(RGB, "GIF")[:781] + bytes(2 * MAX_EXTENSIONS) + encoded(RGB, "GIF")[781:],
}


@pytest.mark.parametrize("name", ENDLESS)
def test_parts_without_end_are_not_walked_through(name):
    with pytest.raises(BadSample, match="too_large"):
        decode_image(ENDLESS[name])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF"])
def test_a_few_odd_parts_are_no_reason_to_refuse(kind):
    data = encoded(RGB, kind)
    middle = {"PNG": chunk(b"tEXt", b"a\0b") * 500, "JPEG": b"\xff\xfe\0\x02" * 500, "GIF": comment(5000)}[kind]
    at = {"PNG": 33, "JPEG": 2, "GIF": 781}[kind]
    assert bool((decode_image(data[:at] + middle + data[at:]) == decode_image(data)).all())


def test_a_large_picture_is_converted_in_strips_to_the_same_values(monkeypatch):
    for picture in (RGB, RGB.convert("P"), RGB.convert("L"), RGB.convert("1")):
        for kind, options in (("PNG", {}), ("GIF", {}), ("BMP", {})):
            data = encoded(picture, kind, **options)
            whole = decode_image(data)
            with monkeypatch.context() as patch:
                patch.setattr(image_decoding, "STRIP", 48 * 5)
                assert bool((decode_image(data) == whole).all())
    rows = b"".join(b"\0" + struct.pack(">4H", n, 300, 7000, 65535) for n in range(9))
    deep = png(4, 9, 16, 0, rows, chunk(b"tRNS", struct.pack(">H", 300)))
    whole = decode_image(deep, (1, 2, 3))
    monkeypatch.setattr(image_decoding, "STRIP", 4 * 2)
    assert bool((decode_image(deep, (1, 2, 3)) == whole).all())
    assert whole[:, 3].T.tolist() == [[0] * 3, [1, 2, 3], [27] * 3, [255] * 3]


def test_what_is_packed_and_what_is_uploaded_has_the_same_limits(tmp_path):
    data = bmp(8000, 8000, 1, b"\0\2\0\xff" * 32 + b"\0\1")
    with pytest.raises(BadSample, match="count 16 times"):
        stored_picture(data, None)
    (tmp_path / "a.bmp").write_bytes(data)
    (tmp_path / "a.gif").write_bytes(ENDLESS["gif comments"])
    with pytest.raises(ValueError, match="before its first frame"):
        read_picture(tmp_path / "a.gif", 8)
    with pytest.raises(ValueError, match=r"a\.bmp has 8000 x 8000 pixels, which count 16 times"):
        read_picture(tmp_path / "a.bmp", 8)
