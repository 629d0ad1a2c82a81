"""FlowEdit: from the picture to its edit along the difference of two velocities, without noising it first.

Kulikov et al. 2024 (arXiv 2412.08629), for flows x_t = (1 - t) data + t noise: at every step fresh noise is added to
the source alone, x_src = (1 - t) data + t noise; the edited state is moved by the same, x_tar = edited + x_src - data,
and the edit follows v(x_tar, target) - v(x_src, source) to the next time. That is their Figure 2 (c), in the steps of
the code that they published, with n_avg = 1 and n_min = 0. Here s is the time of that line; a model with
x = alpha data + sigma noise is such a flow at s = sigma / (alpha + sigma), of x / (alpha + sigma).
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from fewstep.backbones import LatentDiffusion
from fewstep.diffusion.guidance import Condition, Denoiser
from fewstep.diffusion.predictions import Parametrization
from fewstep.diffusion.schedules import per_sample
from fewstep.diffusion.solvers import even_times, time_like
from fewstep.editors.edits import Edited, Edits
from fewstep.editors.sparing_guidance import sparing
from fewstep.rng import PerSampleRng

Velocity = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]  # (source state, edited state, t [B]) -> of each
OF_TARGET = 5.0  # what guidance adds to the target, over what it adds to the source


@dataclass(frozen=True)
class FlowEdit:
    """From t = tau on, in a share of tau of num_steps. The source is guided by 1 + (w - 1) / 5."""

    model: LatentDiffusion
    num_steps: int = 50

    def check(self, w: float, tau: float) -> None:
        """ValueError in one line where the source's scale is none that a network with guidance embedding knows."""
        if (scales := self.model.guidance_scales) is not None and source_scale(w) not in scales:
            known = ", ".join(f"{scale:g}" for scale in scales)
            told = f"flowedit guides the source by {source_scale(w):g} at w {w:g}, and the network knows {known}"
            raise ValueError(f"{told}; give a pipeline without guidance embedding")

    @torch.no_grad()
    def __call__(self, edits: Edits, seed: int = 0) -> Edited:
        model = self.model
        data, condition = model.latents.encode(edits.image), model.prompts([*edits.source, *edits.target])
        scales = torch.ones(2 * len(edits), device=data.device)

        @torch.no_grad()
        def edited(w: float, tau: float) -> Tensor:
            scales[: len(edits)], scales[len(edits) :] = source_scale(w), w
            velocity = velocities(sparing(model), model.parametrization, condition, scales)
            rng = PerSampleRng(seed, edits.key, data.device)
            times = even_times(max(1, round(self.num_steps * tau)), tau, 0.0)
            draw = lambda: rng.normal(*data.shape[1:])  # noqa: E731
            return model.latents.decode(flow_edit(velocity, model.parametrization, data, times, draw))

        return edited


def source_scale(w: float) -> float:
    return 1 + (w - 1) / OF_TARGET


def velocities(denoiser: Denoiser, parametrization: Parametrization, condition: Condition, scales: Tensor) -> Velocity:
    """Those of a denoiser, in one call. condition, scales: [2B, ...], of the sources and then of the targets."""

    def velocity(source: Tensor, edited: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        x, at = torch.cat([source, edited]), torch.cat([t, t])
        answer = denoiser(x, at, scales, condition)
        of_source, of_target = parametrization.convert(answer, x, at, "velocity").chunk(2)
        return of_source, of_target

    return velocity


def flow_edit(
    velocity: Velocity,
    parametrization: Parametrization,
    data: Tensor,
    times: tuple[float, ...],
    draw: Callable[[], Tensor],
) -> Tensor:
    """The edited data [B, ...]. velocity: noise - data of states x_t. times: falling. draw: fresh noise."""
    edited = data
    for start, end in pairwise(times):
        t, until = time_like(data, start), time_like(data, end)
        noise = draw()
        x = parametrization.add_noise(data, noise, t)
        alpha, sigma = parametrization.schedule(t)
        of_source, of_target = velocity(x, x + per_sample(alpha + sigma, data) * (edited - data), t)
        step = line_time(parametrization, until) - line_time(parametrization, t)
        edited = edited + per_sample(step, data) * (of_target - of_source)
    return edited


def line_time(parametrization: Parametrization, t: Tensor) -> Tensor:
    """s [B] of times t [B]."""
    alpha, sigma = parametrization.schedule(t)
    return sigma / (alpha + sigma)
