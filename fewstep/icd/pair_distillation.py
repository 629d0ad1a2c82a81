"""The distillation of one pair: a frozen teacher, its two students, and the losses that they are given."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewstep.backbones import LatentDiffusion
from fewstep.backbones.frozen_encoders import FrozenEncoders
from fewstep.diffusion.guidance import GuidanceSchedule, draw_scales
from fewstep.distillation.consistency import ConsistencyDistillation, Draw
from fewstep.distillation.options import DistillationOptions, SecondPhase
from fewstep.distillation.students import StudentOptions, Students
from fewstep.icd.code_scale import mean_square
from fewstep.icd.export_card import write_card
from fewstep.icd.inversion import decode, encode
from fewstep.icd.pair import InvertibleConsistency
from fewstep.losses import l2
from fewstep.metrics.latent_lpips import LatentLPIPS
from fewstep.rng import PerSampleRng

AUTHORS_ORDER = ("reverse_cd", "forward_cd", "forward_preservation", "reverse_preservation")
IN_ORDER = (*AUTHORS_ORDER, "full_cycle", "code_moment")


class Examination(NamedTuple):
    """What the students make of a batch."""

    errors: dict[str, Tensor]  # each [B]: loss, its terms, latent_mse of the reconstruction, code_mean_square
    generated: Tensor  # [B, 3, H, W] in [-1, 1], of the condition
    reconstructed: Tensor  # [B, 3, H, W] in [-1, 1], encoded and decoded without guidance


@dataclass(frozen=True)
class PairDistillation:
    """model: the teacher; lora students live in its network. losses, guidance_scales: those of the training.

    second_phase: other weights of the losses from some step on. What depends on it takes `step`, the optimizer steps
    that are done; None means the end of the training, so that students are judged alike in both phases.
    A batch is what FrozenEncoders.read takes.
    """

    model: LatentDiffusion
    encoders: FrozenEncoders
    students: Students
    losses: ConsistencyDistillation
    guidance_scales: tuple[float, ...]
    second_phase: SecondPhase | None = None

    @classmethod
    def of(
        cls,
        model: LatentDiffusion,
        guidance_scales: Sequence[float] | None,
        options: DistillationOptions,
        students: StudentOptions,
    ) -> "PairDistillation":
        """Of a guidance-distilled model, whose network is changed in place; None means all scales that it knows."""
        encoders = FrozenEncoders.of(model)  # first: they hash the network as it is
        scales = model.scales_to_train(guidance_scales)
        losses = options.of(model.parametrization, partial(LatentLPIPS, model.latents))
        return cls(model, encoders, students.of(model), losses, scales, options.second_phase)

    def to(self, device: torch.device | str) -> "PairDistillation":
        self.model.to(device)
        self.encoders.to(device)
        return self

    @cached_property
    def pair(self) -> InvertibleConsistency:
        """The students at work on pictures."""
        networks, boundaries = self.students.networks, self.losses.boundaries
        return InvertibleConsistency(self.model, networks.forward, networks.reverse, boundaries, self.guidance_scales)

    def draw(self, batch: Mapping[str, Any], rng: PerSampleRng | None = None) -> Draw:
        """Latents, times, noise and a scale for each sample: from torch's generator in training, else from its rng."""
        data, condition = self.encoders.read(batch, training=rng is None)
        if rng is None:
            uniform, noise = torch.rand(len(data), 4, device=data.device), torch.randn_like(data)
        else:
            noise, uniform = rng.normal(*data.shape[1:]), rng.uniform(4)
        return self.losses.draw(
            data, noise, uniform[:, :3], draw_scales(self.guidance_scales, uniform[:, 3]), condition
        )

    @cached_property
    def _last_losses(self) -> ConsistencyDistillation:
        return replace(self.losses, weights=self.second_phase.loss_weights) if self.second_phase else self.losses

    def _losses_at(self, step: int | None) -> ConsistencyDistillation:
        begun = self.second_phase is None or step is None or step >= self.second_phase.from_step
        return self._last_losses if begun else self.losses

    def objective(self, draw: Draw, step: int | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """See ConsistencyDistillation.objective."""
        return self._losses_at(step).objective(self.students.networks, draw)

    def term(self, name: str, draw: Draw) -> Tensor:
        """See ConsistencyDistillation.term."""
        return self.losses.term(name, self.students.networks, draw)

    def weights_in_authors_order(self, step: int | None = None) -> dict[str, float]:
        """Weights of the terms that count, as the authors' code goes through them."""
        weights = asdict(self._losses_at(step).weights)
        return {name: weights[name] for name in IN_ORDER if weights[name]}

    @torch.no_grad()
    def examine(self, draw: Draw, guidance: GuidanceSchedule, noise_scale: float = 1.0) -> Examination:
        """Losses, an unguided reconstruction, and pictures of the condition. guidance, noise_scale: of these."""
        total, terms = self.objective(draw)
        models = self.model.parametrization, self.losses.boundaries
        code = encode(self.pair.forward, *models, draw.data, draw.noise, draw.condition)[-1]
        reconstructed = decode(self.pair.reverse, *models, code, draw.condition)
        errors = {"loss": total, "latent_mse": l2(reconstructed, draw.data), "code_mean_square": mean_square(code)}
        errors |= {f"{name}_loss": values for name, values in terms.items()}
        generated = decode(self.pair.reverse, *models, draw.noise * noise_scale, draw.condition, guidance)
        return Examination(errors, *self.model.latents.decode(torch.cat([generated, reconstructed])).chunk(2))

    def export(self, folder: str, pipeline: str, network: str | None, code_scale: float | None = None) -> None:
        """Write the students, icd.json for InvertibleConsistency.load, and a README.md for people.

        pipeline, network: where the teacher is. code_scale: see InvertibleConsistency.
        """
        self.students.save(folder)
        pair = replace(self.pair, code_scale=code_scale)
        pair.describe(folder, pipeline, network, self.students.settings)
        write_card(folder, pair, self.students.settings)
