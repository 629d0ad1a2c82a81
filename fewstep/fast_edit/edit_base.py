"""The diffusion model that edits are learnt on: asked without conditions, of pixels or of latents."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.backbones import DiffusersDenoiser, LatentDiffusion, has_guidance_embedding, load_latent_diffusion
from fewstep.backbones.unconditional import is_unconditional, load_unconditional
from fewstep.diffusion.latent_space import LatentSpace
from fewstep.diffusion.predictions import Parametrization
from fewstep.fast_edit.base_identity import base_sha256
from fewstep.files.weights import weights_sha256
from fewstep.picture_size import height_and_width


@dataclass(frozen=True)
class EditBase:
    """Pictures [B, 3, H, W] in [-1, 1] <-> states [B, C, h, w], and a frozen network that denoises states.

    parametrization: its schedule and what it predicts. sample_size: (height, width) of the pictures that it was trained
    on; it takes others whose sides are multiples of `factor`. weights_sha256: of the network as it was loaded.
    latents: of the autoencoder; None where states are the pictures themselves. condition: what the network is told in
    place of a prompt, each [1, ...]; {} where it knows no prompts. encoders: hashes of the weights that made it.
    """

    network: nn.Module
    parametrization: Parametrization
    sample_size: tuple[int, int]
    weights_sha256: str
    latents: LatentSpace | None = None
    condition: Mapping[str, Tensor] = field(default_factory=dict)
    encoders: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def sha256(self) -> str:
        """Of all that decides its answers, see `base_sha256`: edits belong to one base."""
        told = self.latents, self.condition, self.encoders
        return base_sha256(self.weights_sha256, self.parametrization, *told)

    @property
    def factor(self) -> int:
        """Sides of its pictures are multiples of this many pixels."""
        config: Any = self.network.config
        blocks = config.get("block_out_channels")
        own = config["patch_size"] if blocks is None else 2 ** (len(blocks) - 1)
        return int(own) * (1 if self.latents is None else self.latents.reduction)

    def to(self, device: torch.device | str) -> "EditBase":
        self.network.to(device)
        if self.latents is not None:
            self.latents.to(device)
        return self

    def check_pictures(self, pictures: Tensor) -> None:
        """ValueError in one line unless they are [B, 3, H, W], float, of sides that it can take."""
        if pictures.ndim != 4 or pictures.shape[1] != 3 or not pictures.is_floating_point():
            told = f"{pictures.dtype} of shape {list(pictures.shape)}"
            raise ValueError(f"pictures are {told}; give floats in [-1, 1] of shape [B, 3, H, W]")
        (height, width), factor = pictures.shape[2:], self.factor
        config: Any = self.network.config
        most = (config.get("pos_embed_max_size") or math.inf) * factor  # of a transformer's table of positions
        if height % factor or width % factor or not 0 < min(height, width) <= max(height, width) <= most:
            up_to = "" if most == math.inf else f" up to {most}"
            told = f"pictures of {height} x {width} pixels (height x width)"
            raise ValueError(f"{told}: this model takes multiples of {factor}{up_to}; crop or resize them")

    def encode(self, pictures: Tensor) -> Tensor:
        """The data [B, C, h, w] that the network knows: the pictures themselves, or their latents without gradient."""
        self.check_pictures(pictures)
        return pictures if self.latents is None else self.latents.encode(pictures)

    def decode(self, state: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] of data [B, C, h, w], not clamped; gradients pass."""
        return state if self.latents is None else self.latents.decode_with_grad(state)

    def predict(self, x: Tensor, t: Tensor, network: nn.Module | None = None) -> Tensor:
        """The answer [B, C, h, w] to x_t [B, C, h, w] at times t [B]. network: a changed copy, in place of its own."""
        asked = self.network if network is None else network
        denoiser = DiffusersDenoiser(asked, self.parametrization.schedule)
        told = {name: row.to(x.device).expand(len(x), *row.shape[1:]) for name, row in self.condition.items()}
        return denoiser(x, t, torch.ones_like(t) if has_guidance_embedding(asked) else None, told)

    def denoiser(self, x: Tensor, t: Tensor, guidance_scale: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        """`predict` as solvers call it; scale and condition say nothing."""
        return self.predict(x, t)


def load_base(source: str | Path) -> EditBase:
    """From a pipeline (folder or hub id): of pixels without conditions (DDPMPipeline), or any of text to image.

    That of text to image is told the empty prompt, unguided. Frozen, on the CPU. ValueError in one line where there is
    neither.
    """
    if not is_unconditional(source):
        return base_of_latents(load_latent_diffusion(source))
    network, parametrization = load_unconditional(source)
    config: Any = network.config
    size = height_and_width(config["sample_size"], f"{source}: sample_size")
    return EditBase(network, parametrization, size, weights_sha256(network))


def base_of_latents(model: LatentDiffusion) -> EditBase:
    """A model of text to image, asked with its null condition, unguided; its control network is left out."""
    null = dict(model.prompts.null_condition())
    encoders = {name: weights_sha256(encoder) for name, encoder in model.prompts.networks.items()}
    network = model.network.eval().requires_grad_(False)
    told = model.image_size, weights_sha256(network), model.latents, null, encoders
    return EditBase(network, model.parametrization, *told)
