"""A distance of latents by what they look like, for losses that compare pictures instead of codes."""

from torch import Tensor

from fewstep.diffusion.latent_space import LatentSpace
from fewstep.metrics.perceptual import LPIPS


class LatentLPIPS:
    """LPIPS [B] of the pictures that two latents [B, C, h, w] decode to; gradients pass through the frozen decoder.

    As Song et al. 2023 train consistency models in pixels; a decoder call for each side makes it dear. network: "vgg",
    the usual loss, or "alex". Pictures that are too small for it are refused by LPIPS in one line.
    """

    def __init__(self, latents: LatentSpace, network: str = "vgg") -> None:
        self.latents, self.lpips = latents, LPIPS(network)

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        self.lpips.to(prediction.device)
        return self.lpips(self.latents.decode_with_grad(prediction), self.latents.decode_with_grad(target))
