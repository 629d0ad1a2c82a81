"""What every reward does to pictures and prompts before its network sees them.

The exact path computes what the published scorers compute: pictures are rounded to 8 bit (what would be saved and
looked at) and resized by PIL. The differentiable path stays in floating point: half a grey level away for pictures of
the right size, about one for resized ones, a few at hard edges in black and white, where PIL saturates twice.
"""

import warnings
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from fewstep.picture_size import Size, height_and_width

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of pixels in [0, 1]; also BLIP's and so ImageReward's
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
OUT_OF_RANGE = 1e-3  # rounding error that is forgiven beyond [-1, 1], an eighth of a grey level


class Preprocessing(NamedTuple):
    """How a network wants its pictures: of `size` pixels, values (p - mean) / std with p in [0, 1].

    `size`: one number for a square, or (height, width). `resize_mode`: "shortest" scales until the picture covers that
    and cuts the centre, "longest" until it fits in and pads with black, "squash" gives up the aspect ratio.
    `interpolation`: "bicubic" or "bilinear", both antialiased.
    """

    size: Size = 224
    resize_mode: str = "shortest"
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD


def check_images_and_prompts(images: Tensor, prompts: list[str]) -> None:
    """ValueError in one line unless images are float [B, 3, H, W] in [-1, 1], B >= 1, with one prompt for each."""
    if images.ndim != 4 or images.shape[1] != 3 or not images.numel():
        raise ValueError(f"images must be [B, 3, H, W] with B >= 1, got shape {list(images.shape)}")
    if not images.is_floating_point():
        raise ValueError(
            f"images must be float in [-1, 1], got {images.dtype}; convert 8-bit pictures by x / 127.5 - 1"
        )
    low, high = (value.item() for value in images.detach().aminmax())
    if not (low >= -1 - OUT_OF_RANGE and high <= 1 + OUT_OF_RANGE):  # so that NaN is caught, too
        raise ValueError(f"images must lie in [-1, 1], got values from {low:.4g} to {high:.4g}; clamp what overshoots")
    if isinstance(prompts, str) or not all(isinstance(prompt, str) for prompt in prompts):
        raise ValueError(f"prompts must be a list of str, one per image, got {str(prompts)[:60]!r}")
    if len(prompts) != len(images):
        raise ValueError(f"{len(images)} images need as many prompts, got {len(prompts)}")


def to_uint8(images: Tensor) -> Tensor:
    """[-1, 1] float -> uint8 of the same shape, clamped and rounded to the nearest grey level."""
    return images.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


def pixel_values(images: Tensor, wanted: Preprocessing, differentiable: bool = False) -> Tensor:
    """Images [B, 3, H, W] in [-1, 1] -> what the network reads, float32 [B, 3, *size], on the same device."""
    if differentiable:
        pixels = _resize_float(images.float().add(1).div(2), wanted)
    else:
        if images.requires_grad and torch.is_grad_enabled():
            raise ValueError(
                "images require a gradient, which 8-bit rounding would lose; set differentiable=True or use no_grad"
            )
        pixels = _resize_uint8(to_uint8(images), wanted).float().div(255)
    mean, std = (pixels.new_tensor(values)[:, None, None] for values in (wanted.mean, wanted.std))
    return (pixels - mean) / std


def _resized_shape(shape: torch.Size, wanted: Preprocessing) -> tuple[int, int]:
    """(height, width) before cutting and padding, rounded as torchvision and open_clip round."""
    (height, width), (to_height, to_width) = shape[-2:], height_and_width(wanted.size, "size")
    ratios = height / to_height, width / to_width
    if wanted.resize_mode == "squash":
        return to_height, to_width
    if wanted.resize_mode == "longest":
        return round(height / max(ratios)), round(width / max(ratios))
    if wanted.resize_mode != "shortest":
        raise ValueError(f"resize_mode must be shortest, longest or squash, got {wanted.resize_mode!r}")
    if to_height != to_width:
        return round(height / min(ratios)), round(width / min(ratios))
    scaled = int(to_height * max(height, width) / min(height, width))
    return (to_height, scaled) if height <= width else (scaled, to_width)


def _resize_uint8(images: Tensor, wanted: Preprocessing) -> Tensor:
    height, width = _resized_shape(images.shape, wanted)
    if (height, width) != tuple(images.shape[-2:]):
        filters = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
        pictures = images.permute(0, 2, 3, 1).cpu().numpy()
        resized = [Image.fromarray(p).resize((width, height), filters[wanted.interpolation]) for p in pictures]
        images = torch.from_numpy(np.stack([np.asarray(p) for p in resized])).permute(0, 3, 1, 2).to(images.device)
    return _center(images, wanted.size)


def _resize_float(images: Tensor, wanted: Preprocessing) -> Tensor:
    shape = _resized_shape(images.shape, wanted)
    if shape != tuple(images.shape[-2:]):
        images = F.interpolate(images, shape, mode=wanted.interpolation, antialias=True, align_corners=False)
        images = images.clamp(0, 1)  # bicubic overshoots; 8-bit pictures saturate
    return _center(images, wanted.size)


def _center(images: Tensor, size: Size) -> Tensor:
    """Cut or pad with 0 to [..., *size] around the centre."""
    (height, width), (to_height, to_width) = images.shape[-2:], height_and_width(size, "size")
    down, right = max(to_height - height, 0), max(to_width - width, 0)
    images = F.pad(images, (right // 2, right - right // 2, down // 2, down - down // 2))
    top, left = round(max(height - to_height, 0) / 2), round(max(width - to_width, 0) / 2)
    return images[..., top : top + to_height, left : left + to_width]


class CutPrompts:
    """Counts the prompts that a tokenizer cut: `cut` of `seen`. Warns when the number of cut ones gains a digit."""

    def __init__(self, scorer: str, limit: int):
        self.scorer, self.limit = scorer, limit
        self.seen = self.cut = 0

    def count(self, is_cut: list[bool]) -> None:
        before = self.cut
        self.seen, self.cut = self.seen + len(is_cut), before + sum(is_cut)
        if self.cut and len(str(self.cut)) > len(str(before or "")):
            warnings.warn(
                f"{self.scorer} reads {self.limit} tokens of a prompt: {self.cut} of {self.seen} prompts so far were "
                "cut (the end token was kept)",
                stacklevel=3,
            )
