"""Latent diffusion models of text to image, whichever kind, as the parts that samplers and losses need."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.backbones.control import Control
from fewstep.backbones.denoisers import DiffusersDenoiser, has_guidance_embedding
from fewstep.backbones.guided_networks import PARTS, load_denoising_network
from fewstep.backbones.pretrained import load_autoencoder, network_config, scheduler_config
from fewstep.backbones.prompts import load_prompt_encoder, pipeline_parts
from fewstep.diffusion.guidance import ClassifierFree, Condition, Denoiser, require_trained
from fewstep.diffusion.latent_space import LatentSpace
from fewstep.diffusion.predictions import Parametrization, parametrization_of_config
from fewstep.diffusion.prompt_encoder import Prompts
from fewstep.picture_size import Size, as_text, height_and_width


@dataclass(frozen=True)
class LatentDiffusion:
    """A pipeline's parts, frozen: network (UNet2DConditionModel or SD3Transformer2DModel), latents, prompts.

    parametrization: its schedule and what it predicts. sample_size: (height, width) of its latents.
    guidance_scales: those that a network with a guidance embedding was trained on; None if it has none or nobody says.
    control: a network beside it that reads a picture; see `with_control`.
    """

    network: nn.Module
    latents: LatentSpace
    prompts: Prompts
    parametrization: Parametrization
    sample_size: tuple[int, int]
    guidance_scales: tuple[float, ...] | None = None
    control: Control | None = None

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of its pictures in pixels."""
        return _times(self.sample_size, self.latents.reduction)

    def to(self, device: torch.device | str) -> "LatentDiffusion":
        self.network.to(device)
        self.latents.to(device)
        self.prompts.to(device)
        if self.control is not None:
            self.control.network.to(device)
        return self

    def with_control(self, control: Control) -> "LatentDiffusion":
        """The same, whose denoisers are told a picture, too. ValueError in one line for one of other networks."""
        control.check(self.network)
        if control.reduction != self.latents.reduction:
            told = f"{control.reduction} px of its picture for a latent, the autoencoder {self.latents.reduction}"
            raise ValueError(f"the control network takes {told}; take one made for such latents")
        return replace(self, control=control)

    def condition(self, prompts: Sequence[str], controls: Tensor | None = None) -> Condition:
        """What the network is told: prompts and, with a control network, its pictures [B, 3, H, W] in [-1, 1].

        ValueError in one line for pictures of another size, or where there are some and no such network.
        """
        if (controls is None) != (self.control is None):
            told = "no control network: load one, or leave" if self.control is None else "a control network: give"
            raise ValueError(f"there is {told} its pictures, `controls`")
        if controls is None:
            return self.prompts(list(prompts))
        self.check_pictures("controls", controls, len(prompts))
        encoded = self.prompts(list(prompts))
        return {**encoded, "control": controls.to(encoded["prompt"])}

    def check_pictures(self, name: str, pictures: Tensor, num: int) -> None:
        """ValueError in one line unless they are [num, 3, H, W] of its size."""
        wanted = (num, 3, *self.image_size)
        if tuple(pictures.shape) != wanted:
            raise ValueError(f"{name} have shape {list(pictures.shape)}, needed is {list(wanted)}; resize them")

    def denoiser(self) -> Denoiser:
        """The network guided by its own embedding of w, or else classifier-free, in two rows for each."""
        denoiser = DiffusersDenoiser(self.network, self.parametrization.schedule, self.control)
        if has_guidance_embedding(self.network):
            return denoiser
        kept = () if self.control is None else ("control",)
        return ClassifierFree(denoiser.network, self.prompts.null_condition(), kept)

    def scales_to_train(self, wanted: Sequence[float] | None = None) -> tuple[float, ...]:
        """The wanted scales, else all that the network knows; 1 is one of them. ValueError for others than it knows."""
        if not has_guidance_embedding(self.network):
            raise ValueError("the network has no guidance embedding: train GuidanceDistillationModule, give its export")
        scales = tuple(wanted or self.guidance_scales or ())
        if 1.0 not in scales:
            raise ValueError(f"guidance_scales {list(scales)}: say which the network was trained on, 1 among them")
        for scale in scales:
            require_trained(scale, self.guidance_scales or scales)
        return scales


def load_latent_diffusion(
    pipeline: str | Path,
    network: str | Path | None = None,
    dtype: torch.dtype = torch.float32,
    image_size: Size | None = None,
    control: Control | None = None,
) -> LatentDiffusion:
    """The parts of a pipeline of Stable Diffusion 1, 2, XL or 3, by folder or hub id; on the CPU.

    network: another network for it, such as a guidance-distilled one, by what load_guided_network takes. dtype: of the
    network and the text encoders; the autoencoder is always float32, as SDXL's overflows in half precision.
    image_size: of the pictures in pixels, if not the one that the network was made for. control: see `with_control`.
    """
    parts = pipeline_parts(pipeline)
    part = "transformer" if "transformer" in parts else "unet"
    if parts.get(part) not in PARTS:
        raise ValueError(f"{pipeline} draws with {parts.get(part)}; supported are {' and '.join(PARTS)}")
    config = network_config(pipeline, part)
    if part == "transformer" and not isinstance(config.get("sample_size"), int):  # diffusers divides it
        told = f"{pipeline} has a transformer of sample_size {config.get('sample_size')}"
        raise ValueError(f"{told}; write one number into its config, and give image_size")
    latents = LatentSpace(load_autoencoder(pipeline))
    sample_size = _sample_size(pipeline, config, image_size, latents.reduction)
    model: Any
    model, scales = load_denoising_network(network or pipeline, config, dtype, part)
    prompts = load_prompt_encoder(pipeline, dtype, _times(sample_size, latents.reduction))
    check_network(model.config, latents, prompts)
    parametrization = parametrization_of_config(scheduler_config(pipeline))
    made = LatentDiffusion(model, latents, prompts, parametrization, sample_size, scales)
    return made if control is None else made.with_control(control)


def _times(size: tuple[int, int], factor: int) -> tuple[int, int]:
    return size[0] * factor, size[1] * factor


def _sample_size(
    pipeline: str | Path, config: Mapping[str, Any], image_size: Size | None, reduction: int
) -> tuple[int, int]:
    """(height, width) of the latents: of pictures of this size, or else what the config of the network says."""
    if image_size is None:
        try:
            return height_and_width(config.get("sample_size"))
        except ValueError:
            told = f"{pipeline} has sample_size {config.get('sample_size')}"
            raise ValueError(f"{told}: give image_size, in multiples of {reduction} px") from None
    height, width = height_and_width(image_size)
    # A transformer's table of positions is a square of so many patches, of which a picture takes the middle.
    edge, most = reduction * (config.get("patch_size") or 1), config.get("pos_embed_max_size")
    if height % edge or width % edge or (most and max(height, width) > most * edge):
        up_to = f" up to {most * edge}" if most else ""
        raise ValueError(f"{pipeline} draws pictures in multiples of {edge} px{up_to}, not {as_text(image_size)}")
    return height // reduction, width // reduction


def check_network(config: Mapping[str, Any], latents: LatentSpace, prompts: Prompts) -> None:
    """ValueError in one line unless a network with this config reads these latents and prompt states."""
    sizes = dict.fromkeys(("in_channels", "out_channels"), latents.channels) | prompts.network_sizes(config)
    for name, value in sizes.items():
        if config.get(name) != value:
            raise ValueError(
                f"the network has {name}={config.get(name)}, its autoencoder and text encoder need {value}"
            )
