"""Random control networks for the tiny UNets, in folders as the real ones, and pictures for them."""

import torch

from fewstep.backbones import diffusers_network
from tests.tiny_diffusion import unet

KINDS = ("controlnet", "t2i_adapter")
PER_LATENT = (4, 8)  # widths of a ControlNet's own layers: two pixels a latent, as the tiny autoencoder has them


def controlnet(like=None, **config):
    """A ControlNetModel of this UNet, zero-initialised as it is before training."""
    from diffusers import ControlNetModel

    torch.manual_seed(5)
    made = ControlNetModel.from_unet(unet() if like is None else like, conditioning_embedding_out_channels=PER_LATENT)
    made.register_to_config(**config)
    return made


def write_control(folder, kind, perturbed=True, like=None) -> str:
    """One of KINDS; perturbed: a ControlNet that says something, too."""
    if kind == "controlnet":
        network = controlnet(like)
        if perturbed:
            layers = [*network.controlnet_down_blocks, network.controlnet_mid_block]
            for weight in (*(layer.weight for layer in layers), network.controlnet_cond_embedding.conv_out.weight):
                torch.nn.init.normal_(weight.data, std=0.3)
    else:
        torch.manual_seed(6)
        network = diffusers_network("T2IAdapter", {"channels": [8, 16], "downscale_factor": 2, "num_res_blocks": 1})
    network.save_pretrained(folder)
    return str(folder)


def pictures(num, seed=2):
    """[num, 3, 16, 16] in [-1, 1]."""
    return torch.rand(num, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1
