"""Random changes of pictures that a network must not mind; differentiable, and drawn for each picture by itself."""

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

from fewstep.rng import PerSampleRng, standard_normal, standard_uniform


@dataclass(frozen=True)
class Augmentation:
    """The largest change of each kind; every picture draws its own, uniformly from none to that.

    shift: in pixels, each way, the edges repeated. scale: relative change of size, 0.1 for 0.9 to 1.1.
    blur: standard deviation of a Gaussian in pixels. contrast: relative change of the distance from grey.
    noise: standard deviation of Gaussian noise, the pixels being in [-1, 1].
    smear: standard deviation in pixels of displacements that vary smoothly over the picture (Simard et al. 2003).
    """

    shift: float = 0.0
    scale: float = 0.0
    blur: float = 0.0
    contrast: float = 0.0
    noise: float = 0.0
    smear: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            most = 1 if field.name in ("scale", "contrast") else math.inf
            if not 0 <= value < most:
                raise ValueError(f"augmentation.{field.name}={value}: give 0 or more{', below 1' * (most == 1)}")

    def __call__(self, images: Tensor, rng: PerSampleRng | None = None) -> Tensor:
        """Images [B, C, H, W] in [-1, 1] -> the same, changed and clamped to the range; all channels of one alike.

        rng: what the changes are drawn from; None is torch's global generator.
        """
        uniform = torch.rand(6, len(images), device=images.device) if rng is None else rng.uniform(6).T
        if self.shift or self.scale:
            images = _moved(images, self.shift * (2 * uniform[:2] - 1), self.scale * (2 * uniform[2] - 1))
        if self.blur:
            images = blurred(images, self.blur * uniform[3], math.ceil(3 * self.blur))
        if self.contrast:
            images = images * (1 + self.contrast * (2 * uniform[4] - 1))[:, None, None, None]
        if self.noise:
            drawn = torch.randn_like(images) if rng is None else rng.normal(*images.shape[1:])
            images = images + self.noise * uniform[5, :, None, None, None] * drawn
        if self.smear:
            images = _smeared(images, self.smear * standard_uniform(rng, images), rng)
        return images.clamp(-1, 1)


def _moved(images: Tensor, shift: Tensor, growth: Tensor) -> Tensor:
    """Moved right and down by shift [2, B] pixels and larger by 1 + growth [B]; bilinear."""
    height, width = images.shape[-2:]
    place = torch.zeros(len(images), 2, 3, device=images.device)
    place[:, 0, 0] = place[:, 1, 1] = 1 / (1 + growth)
    place[:, 0, 2], place[:, 1, 2] = -2 * shift[0] / width, -2 * shift[1] / height
    grid = F.affine_grid(place, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid.to(images.dtype), padding_mode="border", align_corners=False)


def _smeared(images: Tensor, deviation: Tensor, rng: PerSampleRng | None, coarse: int = 8) -> Tensor:
    """Places of images [B, C, H, W] moved by fields of this deviation [B] in pixels, drawn every `coarse` pixels."""
    height, width = images.shape[-2:]
    field = standard_normal(rng, images, 2, -(-height // coarse) + 1, -(-width // coarse) + 1)
    field = F.interpolate(deviation[:, None, None, None] * field, (height, width), mode="bilinear", align_corners=True)
    still = torch.eye(2, 3, device=images.device).expand(len(images), 2, 3)
    grid = F.affine_grid(still, list(images.shape), align_corners=False).to(images.dtype)
    pixel = torch.tensor([2 / width, 2 / height], device=images.device, dtype=images.dtype)
    moved = grid + field.permute(0, 2, 3, 1) * pixel
    return F.grid_sample(images, moved, padding_mode="border", align_corners=False)


def blurred(images: Tensor, deviation: Tensor, radius: int) -> Tensor:
    """Gaussian blur of images [B, C, H, W], each by its deviation [B] in pixels, cut off at the radius."""
    at = torch.arange(-radius, radius + 1, device=images.device)
    kernel = torch.exp(-0.5 * (at / deviation.clamp(min=1e-3)[:, None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).to(images.dtype).repeat_interleave(images.shape[1], 0)
    rows = F.pad(images, (radius,) * 4, mode="replicate").flatten(0, 1)[None]  # every channel is its own group
    for shape in ((-1, 1, 1, len(at)), (-1, 1, len(at), 1)):
        rows = F.conv2d(rows, kernel.reshape(shape), groups=rows.shape[1])
    return rows.view_as(images)
