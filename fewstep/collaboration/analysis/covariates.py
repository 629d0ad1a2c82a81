"""What may tell where a student differs from its teacher: pictures, prompts, and the teacher's trajectory."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fewstep.collaboration.teacher import Teacher
from fewstep.diffusion.guidance import Condition, DynamicGuidance
from fewstep.diffusion.schedules import Schedule, per_sample
from fewstep.diffusion.solvers import even_times, jumps
from fewstep.files.pictures import as_png, to_picture
from fewstep.metrics.perceptual import LPIPS

PictureDistance = Callable[[Tensor, Tensor], Tensor]  # (images, images) [B, 3, H, W] in [-1, 1] -> [B]


def root_mean_square(first: Tensor, second: Tensor) -> Tensor:
    """[B] of pictures, or latents, [B, ...] and [B, ...]."""
    return (first - second).flatten(1).square().mean(1).sqrt()


DISTANCES: Mapping[str, Callable[[], PictureDistance]] = {
    "lpips": LPIPS,
    "lpips_vgg": lambda: LPIPS("vgg"),
    "pixels": lambda: root_mean_square,
}


def complexity(images: Tensor) -> Tensor:
    """Bytes of a PNG file per pixel, [B] of images [B, 3, H, W] in [-1, 1]: what a picture takes without loss."""
    pixels = images.shape[-2] * images.shape[-1]
    return torch.tensor([len(as_png(to_picture(image))) / pixels for image in images])


def prompt_lengths(tokenizer: Any, prompts: Sequence[str]) -> Tensor:
    """Tokens of each, [B], without those that begin and end every prompt."""
    return torch.tensor([float(len(ids)) for ids in tokenizer(list(prompts), add_special_tokens=False).input_ids])


@torch.no_grad()
def teacher_curvature(teacher: Teacher, noise: Tensor, condition: Condition, num_steps: int) -> Tensor:
    """[B] of the trajectories from noise [B, C, h, w] that the teacher's guided network gives in steps of DDIM."""
    model, times = teacher.model, even_times(num_steps, 1.0, 0.0)
    guidance = DynamicGuidance(teacher.guidance_scale)
    states = jumps(teacher.denoiser, model.parametrization, noise, times, condition, guidance)
    return curvature([noise, *states], times, model.parametrization.schedule)


def curvature(states: Sequence[Tensor], times: Sequence[float], schedule: Schedule) -> Tensor:
    """How far a trajectory is from a straight line, [B] of states [B, ...] at falling times that end in 0.

    In x / alpha_t over s = sigma_t / alpha_t, where steps of DDIM are Euler's: the mean over steps of
    |slope - chord|^2 / |chord|^2, the chord going from the first state to the last one. 0 is straight. ValueError in
    one line where a schedule begins in noise alone, so that s is infinite.
    """
    if len(states) != len(times) or len(times) < 2 or times[-1] != 0:
        raise ValueError(f"{len(states)} states at {len(times)} times: give a state for each, and end in time 0")
    alpha, sigma = schedule(torch.tensor(times, dtype=torch.float64))
    if not alpha.all():
        raise ValueError("the schedule begins in noise alone, alpha = 0: curvature over sigma / alpha has no meaning")
    levels = sigma / alpha
    points = torch.stack([x.flatten(1).cpu().double() / a for x, a in zip(states, alpha, strict=True)])  # [N + 1, B, D]
    slopes = points.diff(dim=0) / per_sample(levels.diff(), points)
    chord = (points[0] - points[-1]) / levels[0].item()
    return ((slopes - chord).square().sum(2).mean(0) / chord.square().sum(1)).float()
