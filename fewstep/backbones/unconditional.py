"""Diffusion models of pixels that are told nothing but x_t and t, as diffusers' DDPMPipeline holds them."""

from pathlib import Path

from torch import nn

from fewstep.backbones.denoisers import check_unconditional
from fewstep.backbones.pretrained import frozen_network, network_config, scheduler_config
from fewstep.backbones.prompts import pipeline_parts
from fewstep.diffusion.predictions import Parametrization, parametrization_of_config
from fewstep.one_line import one_line


def is_unconditional(source: str | Path) -> bool:
    """Whether a pipeline (folder or hub id) draws with a UNet2DModel. ValueError in one line where there is none."""
    return pipeline_parts(source).get("unet") == "UNet2DModel"


def load_unconditional(source: str | Path) -> tuple[nn.Module, Parametrization]:
    """(UNet2DModel, what it predicts on which schedule) of a DDPMPipeline or DDIMPipeline, by folder or hub id.

    Frozen, eval mode, float32 on the CPU; reads safetensors only. A network of 3 channels in and 6 out has learnt its
    variance, too. ValueError in one line for other channels, a network that is told classes or noise levels, one of
    latents, and a scheduler that is none of `parametrization_of_config`.
    """
    from diffusers import UNet2DModel

    parts = {name: entry for name, entry in pipeline_parts(source).items() if not name.startswith("_")}
    if parts.get("unet") != "UNet2DModel":
        raise ValueError(f"{source} draws with {parts.get('unet')}; a DDPMPipeline with a UNet2DModel is needed")
    if others := sorted(parts.keys() - {"unet", "scheduler"}):
        raise ValueError(f"{source} draws with its {others[0]}, too; a DDPMPipeline, which draws pixels, is needed")
    schedule = scheduler_config(source)
    try:
        config = network_config(source, "unet")
        check_unconditional(config)
        channels = config.get("in_channels", 3), config.get("out_channels", 3)
        if channels not in ((3, 3), (3, 6)):
            raise ValueError(f"its network has {channels[0]} channels in and {channels[1]} out; pictures have 3 and 3")
        parametrization = parametrization_of_config(schedule)
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"cannot load {source}: {one_line(error)}") from None
    return frozen_network(UNet2DModel, source, "unet", "diffusion_pytorch_model.safetensors"), parametrization
