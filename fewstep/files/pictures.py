"""One picture from a file of any size, as a model wants it, and back; without torchvision, slow to import."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.Image import Transpose as Flip
from torch import Tensor

from fewstep.files.orientation import orientation, without_words
from fewstep.files.picture_work import MAX_EXTENSIONS, before_frame, check_work
from fewstep.one_line import one_line
from fewstep.picture_size import Size, height_and_width, largest_part, whole_within
from fewstep.pixels import to_uint8

Picture = str | Path | bytes | Image.Image
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
MAX_PIXELS = 1 << 26
MAX_BYTES = 1 << 28
TURNS = dict(enumerate((Flip.FLIP_LEFT_RIGHT, Flip.ROTATE_180, Flip.FLIP_TOP_BOTTOM, Flip.TRANSPOSE), 2))
TURNS |= dict(enumerate((Flip.ROTATE_270, Flip.TRANSVERSE, Flip.ROTATE_90), 6))


def read_picture(file: Picture, size: Size, crop: str = "center") -> Tensor:
    """[1, 3, H, W] in [-1, 1] of this size, upright by its EXIF orientation, on white where it is transparent.

    crop: "center", the largest central part of that shape, or "none", the whole picture, padded with white.
    ValueError in one line for what is no PNG, JPEG, WebP, GIF or BMP picture, or has more than 2^26 pixels.
    """
    picture = _on(_opened(file), "white")
    return torch.from_numpy(np.array(_shaped(picture, size, crop, "white"))).permute(2, 0, 1)[None] / 127.5 - 1


def read_whole(file: Picture) -> Tensor:
    """[1, 3, H, W] in [-1, 1] of the picture's own size; otherwise as `read_picture`."""
    return torch.from_numpy(np.array(_on(_opened(file), "white"))).permute(2, 0, 1)[None] / 127.5 - 1


def read_mask(file: Picture, like: Picture, size: Size, crop: str = "center") -> Tensor:
    """[1, 1, H, W] in [0, 1] of this size, white is 1: where `like` may change. ValueError if they differ in size."""
    mask, picture = _on(_opened(file), "black"), _opened(like)
    if mask.size != picture.size:
        sizes = " x ".join(map(str, mask.size)), " x ".join(map(str, picture.size))
        raise ValueError(f"the mask has {sizes[0]} pixels, its picture {sizes[1]}; draw the mask on the picture")
    return torch.from_numpy(np.array(_shaped(mask, size, crop, "black")).max(2))[None, None] / 255


def to_picture(image: Tensor) -> Image.Image:
    """A picture of [3, H, W] or [1, 3, H, W] in [-1, 1]."""
    return Image.fromarray(to_uint8(image.reshape(image.shape[-3:])).permute(1, 2, 0).cpu().numpy())


def as_png(picture: Image.Image) -> bytes:
    """The PNG file of a picture."""
    file = io.BytesIO()
    picture.save(file, "png")
    return file.getvalue()


def _opened(file: Picture) -> Image.Image:
    """Upright; RGB or, if anything in it can be transparent, RGBA."""
    name = "the picture" if isinstance(file, Image.Image | bytes) else str(file)
    with _told(name):
        if isinstance(file, Image.Image):
            _refuse_large(file, b"", name)
            picture = ImageOps.exif_transpose(file)
        else:
            picture = _turned(*_by_its_header(file, name))
        if picture.mode.startswith("I"):  # 16-bit grey, which convert() would clip at 255
            picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
        return picture.convert("RGBA" if picture.has_transparency_data else "RGB")


@contextmanager
def _told(name: str) -> Iterator[None]:
    """What Pillow raises over a file, as a ValueError in one line."""
    try:
        yield
    except FileNotFoundError:
        raise ValueError(f"the picture {name} does not exist") from None
    except UnidentifiedImageError:
        raise ValueError(f"{name} is not a picture of {', '.join(FORMATS)}") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot read the picture {name}: {one_line(error)}") from None


def check_picture(content: bytes | None) -> None:
    """ValueError in one line unless these are the bytes of a picture that can be read; no pixel is decoded."""
    if content is not None:
        with _told("the upload"):
            _by_its_header(content, "the upload")


def _turned(picture: Image.Image, orientation: int) -> Image.Image:
    """Undo an EXIF orientation 1..8."""
    picture.load()
    return picture.transpose(TURNS[orientation]) if orientation in TURNS else picture


def _by_its_header(file: str | Path | bytes, name: str) -> tuple[Image.Image, int]:
    """The picture, not yet decoded and no more work than the limit allows, and its EXIF orientation."""
    size = len(file) if isinstance(file, bytes) else Path(file).stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"{name} is larger than {MAX_BYTES} bytes, which no picture here need be")
    content = file if isinstance(file, bytes) else Path(file).read_bytes()
    if content.startswith(b"GIF8") and before_frame(content + bytes(14)) > MAX_EXTENSIONS:
        raise ValueError(f"{name} has more than {MAX_EXTENSIONS} bytes before its first frame")
    picture = Image.open(io.BytesIO(without_words(content)), formats=FORMATS)
    _refuse_large(picture, content, name)
    return picture, orientation(content)


def _refuse_large(picture: Image.Image, content: bytes, name: str) -> None:
    try:
        check_work(content, picture.width, picture.height, MAX_PIXELS)
    except ValueError as error:
        raise ValueError(f"{name} has {error}") from None


def _on(picture: Image.Image, background: str) -> Image.Image:
    if picture.mode != "RGBA":
        return picture
    canvas = Image.new("RGB", picture.size, background)
    canvas.paste(picture, mask=picture)
    return canvas


def _shaped(picture: Image.Image, size: Size, crop: str, background: str) -> Image.Image:
    if crop not in ("center", "none"):
        raise ValueError(f"crop={crop!r}: use center or none")
    shape = to_height, to_width = height_and_width(size, "size")
    if crop == "center":
        height, width = largest_part(picture.height, picture.width, shape)
        left, top = (picture.width - width) // 2, (picture.height - height) // 2
        part = picture.crop((left, top, left + width, top + height))
        return part.resize((to_width, to_height), Image.Resampling.BILINEAR)
    height, width = whole_within(picture.height, picture.width, shape)
    canvas = Image.new("RGB", (to_width, to_height), background)
    small = picture.resize((width, height), Image.Resampling.BILINEAR)
    canvas.paste(small, ((to_width - width) // 2, (to_height - height) // 2))
    return canvas
