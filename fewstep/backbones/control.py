"""A network beside a UNet that reads a picture, such as edges or a pose, and what it adds inside the UNet."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.backbones.pretrained import frozen_network
from fewstep.files.hub import missing

# What a ControlNet, which is a copy of a UNet's first half, has in common with it.
SHARED = (
    *("in_channels", "block_out_channels", "layers_per_block", "down_block_types", "cross_attention_dim"),
    *("addition_embed_type", "projection_class_embeddings_input_dim"),
)


class Control:
    """A ControlNet (Zhang et al. 2023) or a T2I-Adapter (Mou et al. 2023) for a UNet2DConditionModel.

    network: diffusers' ControlNetModel or T2IAdapter, kept frozen. Its pictures are [B, 3, H, W] in [-1, 1]; it is fed
    in [0, 1], as pipelines do, and in their mean over the channels where it reads only one. Not an nn.Module.
    """

    def __init__(self, network: nn.Module) -> None:
        from diffusers import ControlNetModel, T2IAdapter

        if not isinstance(network, ControlNetModel | T2IAdapter):
            raise ValueError(f"a {type(network).__name__} controls nothing here; use a ControlNetModel or T2IAdapter")
        self.network: Any = network.eval().requires_grad_(False)
        self.adds_at_once = isinstance(network, ControlNetModel)
        config: Any = self.network.config
        self.channels = config["conditioning_channels" if self.adds_at_once else "in_channels"]
        if self.channels not in (1, 3):
            raise ValueError(f"the control network reads {self.channels} channels; supported are pictures, of 3 or 1")
        if config.get("global_pool_conditions"):
            raise ValueError("the control network has global_pool_conditions, a guidance of its own: not supported")

    @property
    def reduction(self) -> int:
        """Pixels of its picture per latent."""
        config: Any = self.network.config
        if self.adds_at_once:
            return int(2 ** (len(config.conditioning_embedding_out_channels) - 1))
        return int(config.downscale_factor // (2 if self._extra_large else 1))

    @property
    def _extra_large(self) -> bool:
        return bool(self.network.config.get("adapter_type") == "full_adapter_xl")

    def check(self, model: nn.Module) -> None:
        """ValueError in one line unless it was made for networks of this kind and these widths."""
        from diffusers import UNet2DConditionModel

        name = type(self.network).__name__
        if not isinstance(model, UNet2DConditionModel):
            raise ValueError(
                f"a {type(model).__name__} takes no {name}: control is for UNets, Stable Diffusion 1, 2, XL"
            )
        theirs: Any = model.config
        mine = self.network.config
        pairs = [(entry, mine[entry], theirs[entry]) for entry in SHARED] if self.adds_at_once else []
        if not self.adds_at_once:
            widths, blocks = list(mine.channels), list(theirs["block_out_channels"])
            widths += widths[-1:] if mine.adapter_type == "light_adapter" else []
            pairs.append(("channels", widths, blocks + (blocks[-1:] if self._extra_large else [])))
        for entry, has, needed in pairs:
            has, needed = (list(value) if isinstance(value, tuple) else value for value in (has, needed))
            if has != needed:
                raise ValueError(f"the {name} has {entry} {has}, this UNet needs {needed}; take one made for it")

    def additions(
        self, x: Tensor, timestep: Tensor, prompt: Tensor, picture: Tensor, added: dict[str, Tensor] | None
    ) -> dict[str, Any]:
        """What the UNet is called with beside x [B, C, h, w], timestep [B], prompt [B, L, D]; picture: [B, 3, H, W].

        added: the `added_cond_kwargs` of SDXL.
        """
        shown = (picture.to(x) + 1) / 2
        shown = shown if self.channels == 3 else shown.mean(1, keepdim=True)
        if not self.adds_at_once:
            return {"down_intrablock_additional_residuals": list(self.network(shown))}  # a list that the UNet empties
        down, middle = self.network(x, timestep, prompt, shown, added_cond_kwargs=added, return_dict=False)
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}


def load_control(source: str | Path, dtype: torch.dtype = torch.float32) -> Control:
    """From the folder or hub id of a ControlNetModel or T2IAdapter; on the CPU. ValueError in one line."""
    from diffusers import ControlNetModel, T2IAdapter

    try:
        config = ControlNetModel.load_config(str(source))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(missing(source, "config.json", error)) from None
    name = str(config.get("_class_name"))
    kinds: dict[str, type[Any]] = {kind.__name__: kind for kind in (ControlNetModel, T2IAdapter)}
    if name not in kinds:
        raise ValueError(f"{source} holds a {name}; supported are {' and '.join(kinds)}")
    weights = "diffusion_pytorch_model.safetensors"
    return Control(frozen_network(kinds[name], source, "control network", weights, dtype, alone=True))
