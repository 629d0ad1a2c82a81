"""FlowEdit: from the picture to its edit along the difference of two velocities, without noising it first.

Kulikov et al. 2024 (arXiv 2412.08629), Algorithm 1, for flows x_t = (1 - t) data + t noise. Here s is the time of that
line; a model with x = alpha data + sigma noise is such a flow at s = sigma / (alpha + sigma), of x / (alpha + sigma).
Their last steps of plain sampling (n_min) are left out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from benchmarks.fast_edit.captioned import at_size_of
from benchmarks.fast_edit.rivals import Asked, Learning
from fewstep.backbones import DiffusersDenoiser, LatentDiffusion
from fewstep.diffusion.guidance import ClassifierFree
from fewstep.diffusion.predictions import Parametrization
from fewstep.diffusion.schedules import per_sample
from fewstep.diffusion.solvers import even_times, time_like
from fewstep.fast_edit.edit_base import EditBase
from fewstep.rng import PerSampleRng

Velocity = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]  # (source state, edited state, t [B]) -> of each


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


@dataclass(frozen=True)
class FlowEdit:
    """A rival that learns nothing, on another base than the others: `model`, which knows captions.

    t: the time from which on at strength 1. It is given the complete captions of each picture before and after.
    """

    model: LatentDiffusion
    t: float = 0.6
    num_steps: int = 12
    source_scale: float = 1.5
    target_scale: float = 5.5

    def __call__(self, base: EditBase, sources: Tensor, asked: Asked, seed: int = 0) -> "FlowEdited":
        return FlowEdited(self, asked, seed)


@dataclass
class FlowEdited:
    how: FlowEdit
    asked: Asked
    seed: int
    learning: Learning | None = None

    @property
    def passes(self) -> int:
        """Both answers of classifier-free guidance, of source and target."""
        return 4 * self.how.num_steps

    @torch.no_grad()
    def apply(self, pictures: Tensor, strength: float = 1.0) -> Tensor:
        """strength: of t, at most 1 / t."""
        if not strength:
            return pictures.clamp(-1, 1)
        t = min(1.0, strength * self.how.t)
        before = self.asked.captions_before
        if len(before) < len(pictures):
            raise ValueError(f"{len(before)} captions of {len(pictures)} sources: FlowEdit needs one of each")
        edit = lambda shown, rows: self._edited(shown, rows, t)  # noqa: E731
        return at_size_of(self.how.model.image_size[0], pictures, self.asked.captions, edit)

    def _edited(self, pictures: Tensor, rows: list[int], t: float) -> Tensor:
        model, how = self.how.model, self.how
        network = DiffusersDenoiser(model.network, model.parametrization.schedule).network
        denoiser = ClassifierFree(network, model.prompts.null_condition())
        told = [texts[row] for texts in (self.asked.captions_before, self.asked.captions) for row in rows]
        condition = model.prompts(told)
        scales = torch.tensor([how.source_scale, how.target_scale]).repeat_interleave(len(rows)).to(pictures.device)

        def velocity(source: Tensor, edited: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            x, at = torch.cat([source, edited]), torch.cat([t, t])
            answer = denoiser(x, at, scales, condition)
            both = model.parametrization.convert(answer, x, at, "velocity").chunk(2)
            return both[0], both[1]

        data = model.latents.encode(pictures)
        rng = PerSampleRng(self.seed, rows, data.device)
        times = even_times(how.num_steps, t, 0.0)
        draw = lambda: rng.normal(*data.shape[1:])  # noqa: E731
        return model.latents.decode(flow_edit(velocity, model.parametrization, data, times, draw))
