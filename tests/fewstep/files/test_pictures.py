import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.image_decoding import decode_image
from datamodules.image_transforms import ImageTransform
from fewstep.files.names import distinct, safe_name, write_new
from fewstep.files.pictures import as_png, read_mask, read_picture, to_picture


def noise(width, height, mode="RGB"):
    """A smooth random picture: enlarged from 5 x 4."""
    shape = (4, 5, len(Image.new(mode, (1, 1)).getbands()))
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8).squeeze()
    return Image.fromarray(pixels, mode=mode).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("crop", ["center", "none"])
@pytest.mark.parametrize("size", [(90, 60), (33, 64), (16, 16)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA"])
def test_reads_what_the_datamodules_read(tmp_path, crop, size, mode):
    """Their decoder, and torchvision's resizing in place of Pillow's."""
    noise(*size, mode).save(tmp_path / "a.png")
    for shape in (16, (12, 30), (20, 9)):
        theirs = ImageTransform(shape, crop)([decode_image((tmp_path / "a.png").read_bytes())])[0] / 127.5 - 1
        ours = read_picture(tmp_path / "a.png", shape, crop)[0]
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() <= 2.01 / 127.5
        assert (ours - theirs).abs().mean() <= 0.5 / 127.5


def test_exif_and_16_bit(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(40, 20).save(tmp_path / "a.jpg", exif=exif)
    Image.fromarray(np.full((9, 9), 65535, dtype=np.uint16)).save(tmp_path / "deep.png")
    theirs = ImageTransform(16)([decode_image((tmp_path / "a.jpg").read_bytes())])[0] / 127.5 - 1
    assert (read_picture(tmp_path / "a.jpg", 16)[0] - theirs).abs().max() <= 3.01 / 127.5
    assert read_picture(tmp_path / "deep.png", 4).min() == 1


def test_a_mask_is_cut_as_its_picture(tmp_path):
    mask = Image.new("L", (30, 20))
    mask.paste(255, (15, 0, 30, 20))
    mask.save(tmp_path / "m.png")
    noise(30, 20).save(tmp_path / "a.png")
    cut = read_mask(tmp_path / "m.png", tmp_path / "a.png", 10)
    assert cut.shape == (1, 1, 10, 10)
    assert cut[0, 0, 5].round().tolist() == [0] * 5 + [1] * 5
    assert read_mask(tmp_path / "m.png", tmp_path / "a.png", 12, "none")[0, 0, [0, 11]].max() == 0
    wide = read_mask(tmp_path / "m.png", tmp_path / "a.png", (4, 8))
    assert wide.shape == (1, 1, 4, 8)
    assert wide[0, 0, 1].round().tolist() == [0] * 4 + [1] * 4
    with pytest.raises(ValueError, match="the mask has 30 x 20 pixels, its picture 16 x 16; draw the mask"):
        read_mask(tmp_path / "m.png", noise(16, 16), 10)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"", "is not a picture of PNG, JPEG"),
        (b"GIF", "is not a picture of PNG, JPEG"),
        (as_png(noise(64, 64))[:600], "cannot read the picture .*broken.png: .*truncated"),
    ],
)
def test_what_is_no_picture_is_one_line(tmp_path, content, message):
    if content is not None:
        (tmp_path / "broken.png").write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_picture(tmp_path / "broken.png", 16)
    assert "\n" not in str(error.value)


def test_too_large_and_unknown_crop():
    with pytest.raises(ValueError, match="the picture has 9000 x 9000 pixels, the limit is 67108864"):
        read_picture(Image.new("1", (9000, 9000)), 16)
    with pytest.raises(ValueError, match="crop='left': use center or none"):
        read_picture(noise(9, 9), 16, "left")


def test_pictures_survive_the_way_there_and_back(tmp_path):
    image = torch.rand(1, 3, 8, 8) * 2 - 1
    (tmp_path / "a.png").write_bytes(as_png(to_picture(image)))
    assert (read_picture(tmp_path / "a.png", 8) - image).abs().max() <= 0.5001 / 127.5


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a cat", "a-cat"), ("../../x", "x"), ("/etc/passwd", "etc-passwd"), (".hidden", "hidden"), ("-rf", "rf"),
        ("NUL.txt", "NUL.txt-"), ("é", "e"), ("日本", "picture"), ("", "picture"), ("a" * 300, "a" * 80),
        ("x\0y\n", "x-y"), ("C:\\x", "C-x"),
    ],
)  # fmt: skip
def test_names_are_safe(text, name):
    assert safe_name(text) == name


def test_names_become_distinct():
    assert distinct(["a", "A", "a", "a-2", "b"]) == ["a", "A-2", "a-3", "a-2-2", "b"]


def test_nothing_is_overwritten(tmp_path):
    paths = [write_new(tmp_path / "new" / "a.png", bytes([i])) for i in range(3)]
    assert [path.name for path in paths] == ["a.png", "a-2.png", "a-3.png"]
    assert [path.read_bytes() for path in paths] == [b"\0", b"\1", b"\2"]
