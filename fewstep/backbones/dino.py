"""DINO's vision transformers as the keys of their last layer, which tell how a picture is laid out."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.backbones.pretrained import from_pretrained


class LastKeys(nn.Module):
    """Pixels [B, 3, H, W] -> keys [B, tokens, D] of the last layer, all heads side by side; the first is [CLS]'s.

    H and W: multiples of `patch`. Positions that the network was not trained on are interpolated.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        layers = [module for name, module in network.named_modules() if name.endswith((".k_proj", ".key"))]
        if not layers:
            raise ValueError(f"a {type(network).__name__} has no keys; give a ViTModel such as facebook/dino-vitb8")
        self.network, self.patch = network, int(network.config.patch_size)
        self._last: list[nn.Module] = [layers[-1]]  # in a list, so that it is registered once

    def forward(self, pixels: Tensor) -> Tensor:
        found: list[Tensor] = []
        hook = self._last[0].register_forward_hook(lambda *answer: found.append(answer[-1]))
        try:
            self.network(pixels, interpolate_pos_encoding=True)
        finally:
            hook.remove()
        return found[-1]


def load_last_keys(source: str | Path) -> LastKeys:
    """Of a transformers ViTModel in a `save_pretrained` folder or by hub id; frozen, float32 on the CPU."""
    from transformers import ViTModel

    model, report = from_pretrained(
        ViTModel, source, "model.safetensors", dtype=torch.float32, output_loading_info=True, add_pooling_layer=False
    )
    if lacking := sorted(report["missing_keys"]):  # transformers would only print that they are random
        raise ValueError(f"{source} lacks {lacking[0]} ({len(lacking)} entries lacking); is it a whole ViTModel?")
    return LastKeys(model.eval().requires_grad_(False))
