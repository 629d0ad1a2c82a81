"""Small networks, draws and exact students of Gaussian data, on which the losses of iCD are tested."""

from dataclasses import asdict
from functools import partial

import torch
from torch import nn

from fewstep.diffusion.predictions import Parametrization
from fewstep.diffusion.schedules import DiscreteSchedule, RectifiedFlow
from fewstep.distillation.boundaries import Boundaries
from fewstep.distillation.consistency import Weights
from fewstep.distillation.network_calls import SeparateNetworks

SD = Parametrization(DiscreteSchedule(), "eps")
COSINE = DiscreteSchedule("squaredcos_cap_v2")
FOUR = Boundaries((0, 0.26, 0.52, 0.78, 1), 0.02)
MEAN, STD = torch.tensor([1.5, -0.5, 0.2], dtype=torch.float64), torch.tensor([0.3, 1.0, 2.0], dtype=torch.float64)
KINDS = [SD, Parametrization(DiscreteSchedule(), "v"), Parametrization(RectifiedFlow(3), "velocity")]


def of_timesteps(inner, start=19):
    """Boundaries from training steps between the ends, as the released adapters have them."""
    return Boundaries((0.0, *((step + 1) / 1000 for step in inner), 1.0), (start + 1) / 1000)


def name(value):
    return f"{type(value.schedule).__name__}-{value.prediction}" if isinstance(value, Parametrization) else None


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Net(nn.Module):
    """Some smooth function of x [B, 3], training step [B], scale [B] and text [B, 3]."""

    def __init__(self, seed):
        super().__init__()
        self.weight = nn.Parameter(0.5 * normal(3, 3, seed=seed))

    def at_step(self, x, step, guidance_scale, text):
        phase = (step.double() / 300 + guidance_scale.double() / 7)[:, None]
        return torch.tanh(x @ self.weight + text + torch.sin(phase))

    def forward(self, x, t, guidance_scale, condition):
        return self.at_step(x, SD.schedule.timestep(t), guidance_scale, condition["text"])


TEACHER, FORWARD, REVERSE = Net(3), Net(1), Net(2)
NETWORKS = SeparateNetworks(TEACHER, FORWARD, REVERSE)
TERMS = list(asdict(Weights()))


def drawn(distillation, rows=64, seed=0):
    data, noise, text = normal(3, rows, 3, seed=seed)
    uniform = torch.rand(rows, 3, generator=torch.Generator().manual_seed(seed))
    scale = torch.tensor([1.0, 8.0, 12.0, 20.0]).repeat(rows // 4)
    return distillation.draw(data, noise, uniform.double(), scale, {"text": text})


def gaussian(parametrization, std, x, t, guidance_scale, condition):
    """The best answer for data N(MEAN, std^2)."""
    alpha, sigma = (level[:, None] for level in parametrization.schedule(t))
    share = (x - alpha * MEAN) / (alpha**2 * std**2 + sigma**2)
    return parametrization.target(MEAN + alpha * std**2 * share, sigma * share, t)


def perfect(parametrization, segment_end, x, t, guidance_scale, condition):
    """The answer whose jump to the end of t's segment is the exact probability flow of that data."""
    end = segment_end(t)
    (alpha, sigma), (alpha_end, sigma_end) = parametrization.schedule(t), parametrization.schedule(end)
    spread = ((alpha_end[:, None] * STD) ** 2 + sigma_end[:, None] ** 2) / (
        (alpha[:, None] * STD) ** 2 + sigma[:, None] ** 2
    )
    there = alpha_end[:, None] * MEAN + spread.sqrt() * (x - alpha[:, None] * MEAN)
    skip, out = (c[:, None] for c in parametrization.coefficients(t, end))
    return torch.where(out == 0, torch.zeros_like(x), (there - skip * x) / out)


def perfect_pair(parametrization, boundaries):
    return {
        "forward": partial(perfect, parametrization, boundaries.forward_end),
        "reverse": partial(perfect, parametrization, boundaries.reverse_end),
    }
