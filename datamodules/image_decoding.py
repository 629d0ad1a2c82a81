"""From the bytes of a picture to uint8 RGB [3, H, W]; whatever is wrong with them is a BadSample.

JPEG and opaque WebP go through torchvision's decoders (1.4 and 1.2 times Pillow's speed at 256 px). PNG never does: in
torchvision 0.29 one flipped bit in its pixel data is a segmentation fault. Pillow reads it, and all that is not plain
RGB, each format by its own reader, so no file can choose another one.
"""

import io
import re
from collections.abc import Callable

import numpy as np
import torch
import torchvision.io  # noqa: F401  registers the decoders under torch.ops.image
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile
from torch import Tensor

from datamodules.bad_sample import BadSample
from datamodules.image_header import read_header
from fewstep.files.orientation import without_words
from fewstep.files.picture_work import check_work

READERS = {
    "jpeg": JpegImageFile,
    "png": PngImageFile,
    "webp": WebPImageFile,
    "gif": GifImageFile,
    "bmp": BmpImageFile,
}
WHERE_IN_TORCHVISION = re.compile(r"^.*\.cpp:\d+, ")
STRIP = 1 << 20  # pixels that are converted at a time
RGB = 3  # torchvision.io.ImageReadMode.RGB.value
# The operators behind torchvision.io.decode_*, which since 0.29 warn at every call that they will go (then: Pillow).
DECODERS: dict[str, Callable[..., Tensor]] = {
    kind: getattr(torch.ops.image, f"decode_{kind}")
    for kind in ("jpeg", "webp")
    if hasattr(torch.ops.image, f"decode_{kind}")
}


def image_size(data: bytes) -> tuple[int, int]:
    """(width, height) in pixels as `decode_image` would give them, from the header alone; BadSample as there."""
    header = read_header(data)
    return (header.width, header.height) if header.orientation < 5 else (header.height, header.width)


def decode_image(data: bytes, background: tuple[int, int, int] = (255, 255, 255), max_pixels: int = 1 << 26) -> Tensor:
    """uint8 RGB [3, H, W], upright by its EXIF orientation, perhaps not contiguous; of an animation the first frame.

    Args:
        data: a whole JPEG, PNG, WebP, GIF or BMP file. 16-bit values keep their upper byte.
        background: what shows through transparent pixels, (red, green, blue) in 0..255.
        max_pixels: more width x height than this is refused by the header, before anything is allocated; pictures that
            are stored in an expensive way count several times, see fewstep.files.picture_work.

    BadSample: empty_file, not_an_image, truncated_image, too_large. Damage inside the compressed data of a JPEG or WebP
    that still decodes cannot be seen: these formats carry no checksum (PNG does, and it is checked).
    """
    header = read_header(data)
    try:
        check_work(data, header.width, header.height, max_pixels)
    except ValueError as error:
        raise BadSample("too_large", str(error)) from None
    try:
        if header.simple and header.format in DECODERS:
            image = DECODERS[header.format](torch.frombuffer(bytearray(data), dtype=torch.uint8), RGB)
        else:
            image = _by_pillow(data, header.format, background)
    except Exception as error:  # decoders raise whatever damaged bytes lead them to
        reason = WHERE_IN_TORCHVISION.sub("", " ".join(str(error).split("\n", 1)[0].split()))
        if isinstance(error, MemoryError) or "allocate" in reason:
            raise  # the machine's fault, not the picture's
        kind = "truncated_image" if "truncated" in reason.lower() else "not_an_image"
        raise BadSample(kind, f"{header.format}: {reason}"[:200]) from error
    if image.shape[1:] != (header.height, header.width):
        raise BadSample("not_an_image", f"{header.format}: header and picture differ in size")
    return image if header.orientation == 1 else upright(image, header.orientation)


def upright(image: Tensor, orientation: int) -> Tensor:
    """Undo EXIF orientation 1..8 of an image [C, H, W]; 5..8 swap height and width."""
    if orientation >= 5:
        image = image.transpose(1, 2)
    mirrored = {2: (2,), 3: (1, 2), 4: (1,), 6: (2,), 7: (1, 2), 8: (1,)}.get(orientation)
    return image.flip(mirrored) if mirrored else image


def _by_pillow(data: bytes, kind: str, background: tuple[int, int, int]) -> Tensor:
    """The first frame, [3, H, W]; strip by strip, so that a large picture is in memory twice and not four times."""
    with READERS[kind](io.BytesIO(without_words(data))) as picture:
        picture.load()
        if kind == "png" and data[24] == 16 and isinstance(key := picture.info.get("transparency"), tuple):
            picture.info["transparency"] = tuple(value >> 8 for value in key)  # as Pillow has cut the pixels
        pixels = np.empty((picture.height, picture.width, 3), dtype=np.uint8)
        rows = max(1, STRIP // picture.width)
        for top in range(0, picture.height, rows):
            box = (0, top, picture.width, min(top + rows, picture.height))
            strip = picture if rows >= picture.height else picture.crop(box)
            pixels[top : top + rows] = _on_background(_straight(strip), background)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _straight(picture: Image.Image) -> Image.Image:
    """RGB or, if anything in it can be transparent, RGBA with straight alpha."""
    if picture.mode.startswith("I"):  # 16-bit grey, which convert() would clip at 255
        grey = np.asarray(picture)
        opaque = Image.fromarray(np.where(grey == picture.info.get("transparency"), 0, 255).astype(np.uint8))
        return Image.merge("RGBA", [Image.fromarray((grey >> 8).astype(np.uint8))] * 3 + [opaque])
    mode = "RGBA" if picture.has_transparency_data else "RGB"
    return picture if picture.mode == mode else picture.convert(mode)


def _on_background(picture: Image.Image, background: tuple[int, int, int]) -> np.ndarray:
    if picture.mode == "RGBA":
        canvas = Image.new("RGB", picture.size, background)
        canvas.paste(picture, mask=picture)  # (colour * alpha + background * (255 - alpha)) / 255, rounded to nearest
        picture = canvas
    return np.asarray(picture)
