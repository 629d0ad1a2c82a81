"""From pictures of any size to one size, square or not; what is random is a pure function of a key.

Nothing larger than the picture itself or the result is ever made, whatever the shape of the picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from fewstep.picture_size import Size, height_and_width, largest_part, whole_within

CROPS = ("center", "random", "none")
TRIES = 6  # shapes drawn for a random crop before the largest central one is taken


class Box(NamedTuple):
    """Part of a picture in pixels."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class ImageTransform:
    """Crop and resize, antialiased and bilinear on uint8, then perhaps mirror.

    Args:
        size: of the result in pixels, one number for a square or [height, width].
        crop: "center", the largest central part of the result's shape; "random", a part as RandomResizedCrop draws it;
            "none", the whole picture, centred on the background colour.
        flip: mirror left and right with probability 1/2.
        scale: of a random crop, its share of the picture's area, (least, most). (0.7, 1): the subject of a caption
            stays in sight.
        ratio: of a random crop, its width / height before it is resized, (least, most) times that of the result.
        background: (red, green, blue) in 0..255, for crop="none".
    """

    size: Size
    crop: str = "center"
    flip: bool = False
    scale: tuple[float, float] = (0.7, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    background: tuple[int, int, int] = (255, 255, 255)

    def __post_init__(self):
        _ = self.shape  # checks itself
        if self.crop not in CROPS:
            raise ValueError(f"crop={self.crop!r}: use one of {', '.join(CROPS)}")
        for name, most in (("scale", 1), ("ratio", float("inf"))):
            bounds = getattr(self, name)
            if len(bounds) != 2 or not 0 < bounds[0] <= bounds[1] <= most:
                raise ValueError(f"{name}={bounds!r}: give (least, most), above 0{' and at most 1' * (most == 1)}")
        if len(self.background) != 3 or not all(0 <= level <= 255 for level in self.background):
            raise ValueError(f"background={self.background!r}: give (red, green, blue), each from 0 to 255")

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of the result."""
        return height_and_width(self.size, "size")

    def __call__(self, images: Sequence[Tensor], key: Sequence[int] | None = None) -> list[Tensor]:
        """uint8 [3, H, W] each -> uint8 [3, *shape] each, perhaps views of what came in.

        All pictures of one call get the same crop (in proportion, where they differ in size) and the same flip, as an
        edit and its source must. key: whole numbers that decide what is random; None leaves the central crop unflipped.
        """
        draws = () if key is None or not (self.flip or self.crop == "random") else uniform_numbers(key)
        if self.crop == "random" and draws:
            height, width = images[0].shape[1:]
            box = self._random_box(height, width, draws[1:])
            sized = [self._cropped(image, _scaled(box, height, width, image)) for image in images]
        elif self.crop == "none":
            sized = [self._padded(image) for image in images]
        else:
            sized = [self._cropped(image, central_box(*image.shape[1:], self.shape)) for image in images]
        return [image.flip(2) for image in sized] if self.flip and draws and draws[0] < 0.5 else sized

    def _cropped(self, image: Tensor, box: Box) -> Tensor:
        top, left, height, width = box
        if (height, width) != image.shape[1:]:
            image = image[:, top : top + height, left : left + width]
        return self._resized(image, *self.shape)

    def _padded(self, image: Tensor) -> Tensor:
        """Shrunk first and padded afterwards: a strip of 1 x 60,000 pixels must not become a square of that side."""
        height, width = whole_within(*image.shape[1:], self.shape)
        image = self._resized(image, height, width)
        if (height, width) == self.shape:
            return image
        whole = torch.tensor(self.background, dtype=torch.uint8)[:, None, None].repeat(1, *self.shape)
        top, left = (self.shape[0] - height) // 2, (self.shape[1] - width) // 2
        whole[:, top : top + height, left : left + width] = image
        return whole

    def _resized(self, image: Tensor, height: int, width: int) -> Tensor:
        return image if image.shape[1:] == (height, width) else F.resize(image, [height, width], antialias=True)

    def _random_box(self, height: int, width: int, draws: Sequence[float]) -> Box:
        """torchvision's RandomResizedCrop: area uniform in `scale`, log(width / height) uniform in `ratio`."""
        place, shapes = draws[:2], draws[2:]
        (least, most), (narrow, wide) = self.scale, (bound * (self.shape[1] / self.shape[0]) for bound in self.ratio)
        for area, shape in zip(shapes[::2], shapes[1::2], strict=True):
            pixels, aspect = height * width * (least + (most - least) * area), narrow * (wide / narrow) ** shape
            w, h = round((pixels * aspect) ** 0.5), round((pixels / aspect) ** 0.5)
            if 0 < w <= width and 0 < h <= height:
                return Box(int(place[0] * (height - h + 1)), int(place[1] * (width - w + 1)), h, w)
        w = min(width, max(1, round(height * wide)))  # the largest central part of an allowed shape
        h = min(height, max(1, round(width / narrow)))
        return Box((height - h) // 2, (width - w) // 2, h, w)


def central_box(height: int, width: int, shape: tuple[int, int]) -> Box:
    """The largest central part of a picture that has the aspect ratio of `shape`, (height, width)."""
    h, w = largest_part(height, width, shape)
    return Box((height - h) // 2, (width - w) // 2, h, w)


def uniform_numbers(key: Sequence[int]) -> tuple[float, ...]:
    """3 + 2 * TRIES numbers in [0, 1) that belong to this key, the same in every process and on every machine."""
    digest = blake2b(",".join(str(int(number)) for number in key).encode(), digest_size=4 * (3 + 2 * TRIES)).digest()
    return tuple(int.from_bytes(digest[at : at + 4], "little") / 2**32 for at in range(0, len(digest), 4))


def _scaled(box: Box, height: int, width: int, image: Tensor) -> Box:
    """The same part, in proportion, of a picture of another size."""
    to_height, to_width = image.shape[1:]
    if (to_height, to_width) == (height, width):
        return box
    h, w = max(1, round(box.height * to_height / height)), max(1, round(box.width * to_width / width))
    top, left = round(box.top * to_height / height), round(box.left * to_width / width)
    return Box(min(top, to_height - h), min(left, to_width - w), h, w)
