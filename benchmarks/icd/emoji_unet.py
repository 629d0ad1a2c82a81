"""The UNet of the embedded teacher with an embedding of w, with random weights: what the costs are measured on."""

from typing import Any

import torch
from torch import nn

from fewstep.backbones import diffusers_network
from fewstep.diffusion.schedules import DiscreteSchedule

EMOJI = {  # configs/diffusion_teacher/emoji.yaml, and the embedding of w
    "sample_size": 16,
    "block_out_channels": [48, 96, 128],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 16,
    "attention_head_dim": 4,
    "cross_attention_dim": 192,
    "time_cond_proj_dim": 512,
}
TOKENS = 32  # of a prompt
SCALES = (1.0, 2.0, 4.0, 6.0, 8.0)
SCHEDULE = DiscreteSchedule()


def make_network(config: dict[str, Any], device: str = "cpu") -> nn.Module:
    torch.manual_seed(0)
    return diffusers_network("UNet2DConditionModel", config).to(device)
