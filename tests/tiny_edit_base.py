"""Unconditional diffusion models for fast editing: random ones of 8 px, and one that knows the exact answer."""

import torch
from diffusers import UNet2DModel
from diffusers.models.unets.unet_2d import UNet2DOutput

from fewstep.backbones import diffusers_network
from fewstep.backbones.pipelines import DDPM_SCHEDULER
from fewstep.diffusion.predictions import Parametrization
from fewstep.diffusion.schedules import DiscreteSchedule, per_sample, schedule_of_config
from fewstep.fast_edit.edit_base import EditBase
from fewstep.files.weights import weights_sha256

SIZES = {
    "sample_size": 8,
    "block_out_channels": [8, 16],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 8,
}
SCHEDULE = schedule_of_config(DDPM_SCHEDULER)
COSINE = DiscreteSchedule("squaredcos_cap_v2")


def pixel_unet(seed=0, **config):
    torch.manual_seed(seed)
    return diffusers_network("UNet2DModel", SIZES | config).eval()


class Posterior(UNet2DModel):
    """The noise that is expected in x_t where each number of the data is N(mean, spread^2), independently."""

    mean, spread = 0.2, 0.5

    def forward(self, sample, timestep):
        alpha, sigma = (per_sample(level, sample) for level in SCHEDULE((timestep + 1) / 1000))
        variance = alpha**2 * self.spread**2 + sigma**2
        return UNet2DOutput(sample=sigma * (sample - alpha * self.mean) / variance)


class CosinePosterior(Posterior):
    """The same as v on the squared cosine schedule."""

    def forward(self, sample, timestep):
        alpha, sigma = (per_sample(level, sample) for level in COSINE((timestep + 1) / 1000))
        noise = sigma * (sample - alpha * self.mean) / (alpha**2 * self.spread**2 + sigma**2)
        return UNet2DOutput(sample=alpha * noise - sigma * (sample - sigma * noise) / alpha)


def base(network=None, prediction="eps", seed=0, schedule=SCHEDULE):
    network = (pixel_unet(seed) if network is None else network).requires_grad_(False)
    return EditBase(network, Parametrization(schedule, prediction), (8, 8), weights_sha256(network))


def posterior_base():
    torch.manual_seed(0)
    return base(Posterior.from_config(SIZES).eval())


def cosine_posterior_base():
    torch.manual_seed(0)
    return base(CosinePosterior.from_config(SIZES).eval(), "v", schedule=COSINE)


def trained(tuned, seed=1):
    """The same with random adapters, as after training."""
    generator = torch.Generator().manual_seed(seed)
    for name in tuned.names:
        for key, weight in tuned.state(name).items():
            if "lora_B" in key:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.3)
    return tuned


def pictures(rows=2, height=8, width=8, seed=3):
    return torch.rand(rows, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 1.6 - 0.8


class Calls:
    """What a network is asked: rows and timesteps of each call, while it lasts."""

    def __init__(self, network):
        self.rows, self.timesteps = [], []
        network.register_forward_pre_hook(self._see)

    def _see(self, network, inputs):
        self.rows.append(len(inputs[0]))
        self.timesteps.append(inputs[1].tolist())
