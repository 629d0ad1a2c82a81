"""The latents of a frozen autoencoder, scaled as a diffusion model sees them (Rombach et al. 2022, section 3.1)."""

from typing import Any

import torch
from torch import Tensor


class LatentSpace:
    """Images [B, 3, H, W] in [-1, 1] <-> latents [B, C, h, w] = scaling_factor (code - shift_factor).

    autoencoder: diffusers' AutoencoderKL, AutoencoderTiny or one with their encode, decode and config. Not an
    nn.Module: a network that holds one neither trains it nor stores it.
    """

    def __init__(self, autoencoder: Any) -> None:
        self.autoencoder = autoencoder.eval().requires_grad_(False)
        config = autoencoder.config
        if config.get("latents_mean") is not None or config.get("latents_std") is not None:
            raise ValueError("the autoencoder has latents_mean or latents_std, a mean per channel: not supported here")
        self.channels: int = config.latent_channels
        self.scale, self.shift = float(config.scaling_factor), float(config.get("shift_factor") or 0.0)
        self.reduction = 2 ** (len(config.block_out_channels) - 1)  # pixels per latent, as pipelines take it

    def to(self, device: torch.device | str) -> "LatentSpace":
        self.autoencoder.to(device)
        return self

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """The mean of the code, not a draw, float32. ValueError in one line for a size that it cannot divide."""
        if images.shape[-1] % self.reduction or images.shape[-2] % self.reduction:
            size = list(images.shape[-2:])
            raise ValueError(f"images of {size} pixels; the autoencoder needs multiples of {self.reduction}")
        with torch.autocast(images.device.type, enabled=False):
            return self.scale * (mean_code(self.autoencoder.encode(images.float())) - self.shift)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """float32 images, clamped to [-1, 1]."""
        return self.decode_with_grad(latents).clamp(-1, 1)

    def decode_with_grad(self, latents: Tensor) -> Tensor:
        """The same through which gradients pass, and so without a clamp."""
        with torch.autocast(latents.device.type, enabled=False):
            decoded: Tensor = self.autoencoder.decode(latents.float() / self.scale + self.shift).sample
            return decoded


def mean_code(encoded: Any) -> Tensor:
    """The mean of what a diffusers autoencoder's encode returned; AutoencoderTiny has nothing but a mean."""
    return encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
