"""`check` and training follow one rule, over odd shards: what is sound is read whole, and what is left out is named."""

import io
import random
import tarfile

import numpy as np
import pytest

from datamodules.image_folder import open_images
from datamodules.image_samples import ImageSamples, SampleDecoder
from datamodules.image_transforms import ImageTransform
from datamodules.prepare.image_check import check_images
from tests.datamodules.picture_shards import picture, sample, write_tar
from tests.datamodules.test_tar_links import packed

PICTURES = {form: picture(3, suffix=form) for form in ("png", "jpg", "webp", "gif", "bmp")}
ODD = {
    **{form: {"png": None, form: content} for form, content in PICTURES.items()},
    "two": {"jpg": PICTURES["jpg"]},
    "upper": {"png": None, "PNG": PICTURES["png"]},
    "named": {"png": None, "v1.png": PICTURES["png"]},
    "cut": {"png": PICTURES["png"][:40]},
    "first bad": {"jpg": b"no picture"},
    "other": {"png": None, "tiff": b"II*\0"},
    "no words": {"txt": None},
    "empty words": {"txt": b"  "},
    "latin": {"txt": b"caf\xe9"},
    "bad json": {"json": b"{"},
    "list": {"json": b"[1]"},
    "captions": {"json": b'{"captions": ["a", 1]}'},
    "empty": {"png": b""},
}


def both(folder) -> tuple[set[str], set[str], list[str]]:
    """The keys that training leaves out, those that check names, and its faults."""
    report = check_images(str(folder))
    index = open_images(str(folder), "train")
    samples = ImageSamples(index, SampleDecoder(ImageTransform(8)), replace=False)
    faults = []
    for row in range(len(index)):  # one by one: a batch without any good sample has no shapes
        samples._sample(0, row, faults)
    return {where for _, where, _ in faults}, {where for _, where, _ in report.unreadable}, report.faults


@pytest.mark.parametrize("seed", range(25))
def test_both_leave_out_the_same_samples(seed, tmp_path):
    draw = random.Random(seed)
    chosen = draw.choices([*ODD], k=draw.randint(1, 6))
    write_tar(tmp_path / "0.tar", {f"k{n}": _fields(ODD[name]) for n, name in enumerate(chosen)})
    left_out, named, faults = both(tmp_path)
    assert left_out == named, chosen
    assert faults == []


def _fields(changes: dict) -> dict[str, bytes]:
    members = {**sample(1), **changes}
    return {name: content for name, content in members.items() if content is not None}


def test_links_are_pictures_for_both(tmp_path):
    members = [("a.png", tarfile.REGTYPE, PICTURES["png"]), ("b.png", tarfile.SYMTYPE, "a.png")]
    words = [(f"{key}.txt", tarfile.REGTYPE, b"words") for key in "abc"]
    (tmp_path / "0.tar").write_bytes(packed([*members, ("c.png", tarfile.SYMTYPE, "/etc/passwd"), *words]))
    left_out, named, faults = both(tmp_path)
    assert left_out == named == {"0.tar:c"}
    assert "outside the archive" in faults[0]


def test_what_cannot_be_opened_is_no_sound_folder(tmp_path):
    write_tar(tmp_path / "train-0.tar", {})
    assert check_images(str(tmp_path)).faults == ["split 'train' holds no samples"]
    with pytest.raises(ValueError, match="holds no samples"):
        open_images(str(tmp_path), "train")
    for shard in range(3):
        fields = {f"f{shard}x{n}.txt": b"" for n in range(25)}
        write_tar(tmp_path / f"train-{shard}.tar", {"k": sample(shard) | fields})
    assert "different field names" in check_images(str(tmp_path)).faults[0]
    with pytest.raises(ValueError, match="different field names"):
        open_images(str(tmp_path), "train")


def test_arrays_are_read_too(tmp_path):
    write_tar(tmp_path / "0.tar", {"a": sample(1, z_npy=_npy(np.zeros(3))), "b": sample(2, z_npy=_npy(np.zeros(4)))})
    write_tar(tmp_path / "1.tar", {"c": sample(3, z_npy=b"no array")})
    assert [where for _, where, _ in check_images(str(tmp_path)).unreadable] == ["0.tar:b", "1.tar:c"]


def _npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()
