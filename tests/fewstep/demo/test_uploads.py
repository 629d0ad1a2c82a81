"""What is uploaded to the page is judged by its header, before gradio decodes it."""

import base64
import io
from types import SimpleNamespace

import pytest
from PIL import Image, ImageFile

from tests.datamodules.test_picture_work import bmp

gradio = pytest.importorskip("gradio")

BOMB = bmp(8000, 8000, 1, b"\0\2\0\xff" * 32 + b"\0\1")


def sent(content, tmp_path):
    """The ways in which a page sends a picture."""
    (tmp_path / "a").write_bytes(content)
    data = "data:image/png;base64," + base64.b64encode(content).decode()
    return [
        SimpleNamespace(url=None, path=str(tmp_path / "a"), orig_name="a.png"),
        SimpleNamespace(url=data, path=None, orig_name="a.png"),
    ]


@pytest.mark.parametrize(("content", "words"), [(BOMB, "count 16 times"), (b"<svg/>", "not a picture of PNG")])
def test_a_bad_upload_is_one_line_and_never_decoded(content, words, tmp_path, monkeypatch):
    from fewstep.demo.uploads import limited

    def never(*_):
        raise AssertionError("a pixel was decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", never)
    image = limited(gradio.Image(type="pil", image_mode=None, render=False))
    editor = limited(gradio.ImageEditor(type="pil", render=False))
    for payload in sent(content, tmp_path):
        with pytest.raises(gradio.Error, match=words):
            image.preprocess(payload)
    with pytest.raises(gradio.Error, match=words):
        editor.convert_and_format_image(content)


def test_a_good_upload_is_what_it_was(tmp_path):
    from fewstep.demo.uploads import limited

    content = io.BytesIO()
    Image.new("RGB", (5, 4), (1, 2, 3)).save(content, "PNG")
    image = limited(gradio.Image(type="pil", image_mode=None, render=False))
    editor = limited(gradio.ImageEditor(type="pil", render=False))
    for payload in sent(content.getvalue(), tmp_path):
        assert image.preprocess(payload).getpixel((0, 0)) == (1, 2, 3)
    assert editor.convert_and_format_image(content.getvalue()).size == (5, 4)
    assert image.preprocess(None) is None
