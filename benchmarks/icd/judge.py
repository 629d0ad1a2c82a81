"""How near pictures are to others, and how well they show what a caption says."""

import torch
from torch import Tensor
from torch.nn import functional as F

from fewstep.metrics.features import MobileNetV2
from fewstep.metrics.frechet import FeatureMoments, Gaussian, frechet_distance
from fewstep.metrics.perceptual import LPIPS
from fewstep.rewards.clip_scores import load_clip

LEAST_MSE = 1e-6  # of pixels in [-1, 1]: equal pictures have 66 dB, not infinity


class Judge:
    """scorer: folder of the held-out CLIP. feature_size: pixels that MobileNetV2 sees."""

    def __init__(self, scorer: str, feature_size: int = 64, device: str = "cpu", batch: int = 64) -> None:
        self.lpips, self.features = LPIPS("alex").to(device), MobileNetV2(size=feature_size).to(device)
        self.scorer, self.batch = load_clip(f"local-dir:{scorer}", None).to(device), batch

    @torch.no_grad()
    def nearness(self, images: Tensor, references: Tensor) -> dict[str, Tensor]:
        """psnr in dB, ssim, lpips, and cosine of MobileNetV2 features, each [N]; images [N, 3, H, W] in [-1, 1]."""
        parts = zip(images.split(self.batch), references.split(self.batch), strict=True)
        rows = [
            (psnr(a, b), ssim(a, b), self.lpips(a, b), F.cosine_similarity(self.embed(a), self.embed(b)))
            for a, b in parts
        ]
        names = ("psnr", "ssim", "lpips", "feature_cosine")
        return {name: torch.cat(column).cpu() for name, column in zip(names, zip(*rows, strict=True), strict=True)}

    def embed(self, images: Tensor) -> Tensor:
        """MobileNetV2 features [N, 1280]."""
        pixels = images.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
        return torch.cat([self.features(part) for part in pixels.split(self.batch)])

    def gaussian(self, images: Tensor) -> Gaussian:
        moments = FeatureMoments(self.features.num_features)
        moments.add(self.embed(images).cpu())
        return moments.gaussian()

    def distance(self, images: Tensor, real: Gaussian) -> float:
        """Fréchet distance of MobileNetV2 features."""
        return frechet_distance(real, self.gaussian(images))

    @torch.no_grad()
    def alignment(self, images: Tensor, captions: list[str]) -> Tensor:
        """Cosine [N] of the scorer; captions in its own words."""
        words = torch.cat([self.scorer.embed_prompts(captions[i : i + 256]) for i in range(0, len(captions), 256)])
        pictures = torch.cat([self.scorer.embed_images(part) for part in images.split(self.batch)])
        return (pictures * words).sum(1).cpu()


def psnr(images: Tensor, references: Tensor) -> Tensor:
    """dB [N], for the range 2 of pixels in [-1, 1]."""
    return 10 * (4 / (images - references).square().mean((1, 2, 3)).clamp(min=LEAST_MSE)).log10()


def ssim(images: Tensor, references: Tensor) -> Tensor:
    """Structural similarity [N] (Wang et al. 2004): windows of 11 x 11, Gaussian of 1.5 px, colours one by one."""
    place = torch.arange(-5.0, 6.0, device=images.device)
    kernel = torch.exp(-(place**2) / (2 * 1.5**2))
    window = (kernel[:, None] * kernel / kernel.sum() ** 2).expand(3, 1, 11, 11)

    def blurred(values: Tensor) -> Tensor:
        return F.conv2d(values, window, groups=3)

    mean_a, mean_b = blurred(images), blurred(references)
    var_a, var_b = blurred(images**2) - mean_a**2, blurred(references**2) - mean_b**2
    covariance = blurred(images * references) - mean_a * mean_b
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    similarity = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return (similarity / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))).mean((1, 2, 3))
