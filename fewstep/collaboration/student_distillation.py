"""The distillation of one few-step student from a guided teacher: a consistency loss with a single segment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewstep.backbones import LatentDiffusion, has_guidance_embedding
from fewstep.backbones.frozen_encoders import FrozenEncoders
from fewstep.choices import require_choice, require_range
from fewstep.collaboration.student import Student, describe_student
from fewstep.diffusion.guidance import Distance, draw_scales
from fewstep.diffusion.predictions import Parametrization
from fewstep.distillation.boundaries import Boundaries
from fewstep.distillation.consistency import ConsistencyDistillation, Draw, Weights
from fewstep.distillation.students import StudentOptions, Students
from fewstep.losses import DISTANCES, pseudo_huber
from fewstep.metrics.latent_lpips import LatentLPIPS
from fewstep.rng import PerSampleRng

PERCEPTUAL = "lpips"
WEIGHTINGS = ("uniform", "snr", "snr_plus_one", "truncated_snr")


@dataclass(frozen=True)
class ConsistencyOptions:
    """Settings of the student's training; the defaults are those of the paper's code for Stable Diffusion 1.5.

    num_steps: teacher steps on a grid over [0, 1]. distance: of latents, "l2", "l1" or "pseudo_huber", huber_c
    belonging to the last, or "lpips" of the pictures that they decode to, which the paper's code has not.
    weighting: of the times, "uniform", "snr", "snr_plus_one" or "truncated_snr" (at least 1), snr = (alpha / sigma)^2.
    target_decay: of the moving average of the student that its targets come from; 0 takes the student itself.
    """

    num_steps: int = 50
    distance: str = "l2"
    huber_c: float = 1e-3
    weighting: str = "uniform"
    target_decay: float = 0.95

    def __post_init__(self) -> None:
        require_range("distillation.num_steps", self.num_steps, 2)
        require_choice("distillation.distance", self.distance, (*DISTANCES, PERCEPTUAL))
        require_choice("distillation.weighting", self.weighting, WEIGHTINGS)
        require_range("distillation.huber_c", self.huber_c, above=True)
        if not 0 <= self.target_decay < 1:
            raise ValueError(f"distillation.target_decay={self.target_decay}: must be at least 0 and below 1")

    def of(self, model: LatentDiffusion) -> ConsistencyDistillation:
        """The loss for a model's network: `reverse_cd` over one segment."""
        distance: Distance
        if self.distance == PERCEPTUAL:
            distance = LatentLPIPS(model.latents)
        elif self.distance == "pseudo_huber":
            distance = partial(pseudo_huber, c=self.huber_c)
        else:
            distance = DISTANCES[self.distance]
        parametrization = model.parametrization
        weighting = None if self.weighting == "uniform" else partial(snr_weight, parametrization, self.weighting)
        return ConsistencyDistillation(
            parametrization,
            Boundaries((0.0, 1.0), start=1 / self.num_steps),
            self.num_steps,
            distance,
            Weights(forward_cd=0, reverse_cd=1, forward_preservation=0, reverse_preservation=0),
            averaged_target=self.target_decay > 0,
            time_weight=weighting,
        )


def snr_weight(parametrization: Parametrization, weighting: str, t: Tensor) -> Tensor:
    """Weights [B] of times t [B] in (0, 1]."""
    alpha, sigma = parametrization.schedule(t)
    snr = (alpha / sigma).square()
    return snr + 1 if weighting == "snr_plus_one" else snr if weighting == "snr" else snr.clamp(min=1)


class Examination(NamedTuple):
    """What the student makes of a batch."""

    loss: Tensor  # [B]
    generated: Tensor  # [B, 3, H, W] in [-1, 1], of the condition


@dataclass(frozen=True)
class StudentDistillation:
    """model: the teacher; a lora student lives in its network. guidance_scales: what the student learns to draw at.

    A batch is what FrozenEncoders.read takes.
    """

    model: LatentDiffusion
    encoders: FrozenEncoders
    students: Students
    losses: ConsistencyDistillation
    guidance_scales: tuple[float, ...]
    target_decay: float

    @classmethod
    def of(
        cls,
        model: LatentDiffusion,
        guidance_scales: Sequence[float],
        options: ConsistencyOptions,
        students: StudentOptions,
    ) -> "StudentDistillation":
        """Of a model whose network is changed in place. ValueError in one line for scales that it cannot teach.

        A network with an embedding of w teaches any number of those that it knows, and its student is told w. Another
        one is guided classifier-free and teaches one scale, which becomes part of the student.
        """
        scales = tuple(float(scale) for scale in guidance_scales)
        if has_guidance_embedding(model.network):
            scales = model.scales_to_train(tuple(dict.fromkeys((1.0, *scales)))) if scales else model.scales_to_train()
        elif len(scales) != 1 or not 0 < scales[0] < float("inf"):
            told = "the network has no guidance embedding: give the one positive scale that its student shall draw at"
            raise ValueError(f"guidance_scales={list(scales)}: {told}")
        encoders = FrozenEncoders.of(model)  # first: they hash the network as it is
        losses = options.of(model)
        return cls(
            model, encoders, students.decoder_of(model, losses.averaged_target), losses, scales, options.target_decay
        )

    def to(self, device: torch.device | str) -> "StudentDistillation":
        self.model.to(device)
        self.encoders.to(device)
        return self

    @cached_property
    def student(self) -> Student:
        """The student at work on prompts."""
        return Student(self.model, self.students.networks.reverse, self.guidance_scales)

    def draw(self, batch: Mapping[str, Any], rng: PerSampleRng | None = None) -> Draw:
        """Latents, times, noise and a scale for each sample: from torch's generator in training, else from its rng."""
        data, condition = self.encoders.read(batch, training=rng is None)
        if rng is None:
            uniform, noise = torch.rand(len(data), 4, device=data.device), torch.randn_like(data)
        else:
            noise, uniform = rng.normal(*data.shape[1:]), rng.uniform(4)
        scale = draw_scales(self.guidance_scales, uniform[:, 3])
        return self.losses.draw(data, noise, uniform[:, :3], scale, condition)

    def loss(self, draw: Draw) -> Tensor:
        """[B]"""
        return self.losses.objective(self.students.networks, draw)[0]

    def move_target(self) -> None:
        """After an optimizer step."""
        self.students.move_target(self.target_decay)

    @torch.no_grad()
    def examine(self, draw: Draw, rng: PerSampleRng, num_steps: int, guidance_scale: float) -> Examination:
        """Losses, and pictures of the condition from the noise of the draw, with fresh noise from rng in between."""
        latents = self.student.draw(draw.noise, draw.condition, rng, num_steps, guidance_scale)
        return Examination(self.loss(draw), self.model.latents.decode(latents))

    def export(self, folder: str, pipeline: str, network: str | None) -> None:
        """Write the student, and student.json for load_student. pipeline, network: where the teacher is."""
        self.students.save(folder)
        describe_student(folder, pipeline, network, self.students.settings, self.student)
