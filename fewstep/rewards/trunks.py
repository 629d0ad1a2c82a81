"""Networks of timm that turn pictures into feature maps, built by name and sizes and never with weights."""

import difflib
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.one_line import one_line
from fewstep.picture_size import as_text


def timm_trunk(name: str, options: Mapping[str, Any]) -> nn.Module:
    """Images [B, 3, H, W] -> maps [B, C, h, w], or tokens [B, N, C] of transformers; random weights.

    A config may come from anywhere: it names a network and its sizes, and nothing that timm would load. ValueError in
    one line.
    """
    import timm

    if not isinstance(options, Mapping):
        raise ValueError(
            f"trunk_options={one_line(repr(options), 80)}: give sizes by name, such as {{depths: [1, 1, 2, 1]}}"
        )
    own = [*inspect.signature(timm.create_model).parameters, "features_only", "in_chans"]
    if not isinstance(name, str) or not timm.is_model(name):
        near = difflib.get_close_matches(str(name), timm.list_models(), 1)
        raise ValueError(f"trunk {name!r} is no network of timm{f'; the nearest is {near[0]!r}' if near else ''}")
    if loading := [key for key in map(str, options) if key in own or key.startswith("pretrained")]:
        raise ValueError(f"trunk_options.{loading[0]} is nothing that a reader takes; give sizes such as depths, dims")
    try:
        return timm.create_model(name, pretrained=False, num_classes=0, global_pool="", **options)
    except Exception as error:  # timm asserts, looks up names, passes options on
        raise ValueError(f"timm cannot build the trunk {name!r}: {one_line(error, 160)}") from None


def trunk_tokens(trunk: nn.Module, images: Tensor) -> Tensor:
    """Tokens [B, N, C] of images [B, 3, H, W]: the places of a feature map, row by row."""
    features = trunk(images)
    if features.dim() != 4:
        return features
    last = getattr(trunk, "output_fmt", "NCHW") == "NHWC"  # Swin and the like have their channels last
    return features.flatten(1, 2) if last else features.flatten(2).mT


def num_tokens(trunk: nn.Module, name: str, size: tuple[int, int]) -> tuple[int, int]:
    """(N, C) of a picture of this size; ValueError in one line where the trunk takes none."""
    try:
        with torch.no_grad():
            _, count, width = trunk_tokens(trunk.eval(), torch.zeros(1, 3, *size)).shape
    except Exception as error:  # what a network asserts of sizes, and what no memory holds
        raise ValueError(
            f"the trunk {name!r} cannot read pictures of {as_text(size)}: {one_line(error, 160)}"
        ) from None
    trunk.train()
    return count, width


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images [B, 3, H, W] of another size: pixels are repeated where that is all it takes, as drawings of pixels need.

    Otherwise bilinear and antialiased.
    """
    (height, width), (tall, wide) = images.shape[-2:], size
    if (height, width) == size:
        return images
    if tall % height == wide % width == 0:
        return images.repeat_interleave(tall // height, -2).repeat_interleave(wide // width, -1)
    return F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)
