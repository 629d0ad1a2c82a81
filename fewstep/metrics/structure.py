"""How far the layout of a picture has moved: distance between the self-similarities of its parts.

Tumanyan et al. 2022 (Splicing ViT Features for Semantic Appearance Transfer): S_ij is the cosine of the keys of tokens
i and j in the last layer of a DINO ViT, heads side by side, [CLS] among them. Distance: the mean square of S - S',
as PIE-Bench (Ju et al. 2023) takes it, with ViT-B/8, of pictures whose shorter side is 224 pixels.
"""

from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.files.weights import weights_sha256
from fewstep.metrics.features import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    MobileNetV2,
    check_pictures,
    freeze,
    full_float32,
    imagenet_pixels,
)

OFFICIAL = "facebook/dino-vitb8"
LONGEST = 480  # pixels, of a side
LEAST_NORM = 1e-8


class StructureDistance(nn.Module):
    """Pairs of uint8 pictures [B, 3, H, W] -> distances [B], 0 for equal ones.

    source: a DINO ViT by transformers hub id or folder, or "mobilenet": the 7 x 7 places of MobileNetV2, from a
    package, where there is no network. name: of the log key, `structure_distance` for ViT-B/8 of DINO alone.
    """

    def __init__(self, source: str | Path = OFFICIAL, size: int = 224) -> None:
        super().__init__()
        self.size, self.patch = size, 0
        self.tokens: nn.Module
        if str(source) == "mobilenet":
            network = MobileNetV2(size=size)
            self.tokens, self.name = network.features, "structure_mobilenet"
            self.protocol: dict[str, Any] = dict(network.protocol)
        else:
            from fewstep.backbones.dino import load_last_keys

            self.tokens = keys = load_last_keys(source)
            self.patch = keys.patch
            name = Path(source).name
            self.name = "structure_distance" if name == Path(OFFICIAL).name else f"structure_{name.replace('-', '_')}"
            self.protocol = {"network": str(source), "weights_sha256": weights_sha256(self.tokens)}
            self.protocol["resize"] = f"antialiased bilinear, shorter side {size}"
        freeze(self)

    def forward(self, images: Tensor, references: Tensor) -> Tensor:
        if images.shape != references.shape:
            told = f"{list(images.shape)} and {list(references.shape)}"
            raise ValueError(f"a structure distance is of two pictures of one size, got {told}")
        check_pictures(images)
        check_pictures(references)
        with full_float32(images.device):
            mine, theirs = (self_similarity(self._tokens(side)) for side in (images, references))
            return (mine - theirs).square().mean((1, 2))

    def _tokens(self, images: Tensor) -> Tensor:
        """[B, tokens, D]"""
        if not self.patch:
            return self.tokens(imagenet_pixels(images, self.size)).flatten(2).transpose(1, 2)
        pixels, shape = images.float().div(255), _shape(images.shape[-2], images.shape[-1], self.size, self.patch)
        if tuple(images.shape[-2:]) != shape:
            pixels = F.interpolate(pixels, shape, mode="bilinear", antialias=True, align_corners=False)
        mean, std = (pixels.new_tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
        return self.tokens((pixels - mean) / std)


def self_similarity(tokens: Tensor) -> Tensor:
    """Cosines [B, T, T] of all pairs of tokens [B, T, D]."""
    norms = tokens.norm(dim=2, keepdim=True)
    return tokens @ tokens.mT / (norms @ norms.mT).clamp(min=LEAST_NORM)


def _shape(height: int, width: int, size: int, patch: int) -> tuple[int, int]:
    """(height, width) with a shorter side of `size` and no side above LONGEST, in whole patches."""
    scale = min(size / min(height, width), LONGEST / max(height, width))
    return tuple(max(patch, int(side * scale + 1e-6) // patch * patch) for side in (height, width))  # type: ignore[return-value]
