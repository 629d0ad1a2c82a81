"""The distillation of one pair: a frozen teacher, its two students, and the losses that they are given."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewstep.backbones import LatentDiffusion
from fewstep.backbones.frozen_encoders import FrozenEncoders
from fewstep.diffusion.guidance import GuidanceSchedule, draw_scales
from fewstep.distillation.consistency import ConsistencyDistillation, Draw
from fewstep.distillation.options import DistillationOptions
from fewstep.distillation.students import StudentOptions, Students
from fewstep.icd.inversion import decode, encode
from fewstep.icd.pair import InvertibleConsistency
from fewstep.losses import l2
from fewstep.rng import PerSampleRng

AUTHORS_ORDER = ("reverse_cd", "forward_cd", "forward_preservation", "reverse_preservation", "full_cycle")


class Examination(NamedTuple):
    """What the students make of a batch."""

    errors: dict[str, Tensor]  # each [B]: the loss, its terms, and latent_mse of the reconstruction
    generated: Tensor  # [B, 3, H, W] in [-1, 1], of the condition
    reconstructed: Tensor  # [B, 3, H, W] in [-1, 1], encoded and decoded without guidance


@dataclass(frozen=True)
class PairDistillation:
    """model: the teacher; lora students live in its network. losses, guidance_scales: those of the training.

    A batch is what FrozenEncoders.read takes.
    """

    model: LatentDiffusion
    encoders: FrozenEncoders
    students: Students
    losses: ConsistencyDistillation
    guidance_scales: tuple[float, ...]

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
        scales, losses = model.scales_to_train(guidance_scales), options.of(model.parametrization)
        return cls(model, encoders, students.of(model), losses, scales)

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

    def objective(self, draw: Draw) -> tuple[Tensor, dict[str, Tensor]]:
        """See ConsistencyDistillation.objective."""
        return self.losses.objective(self.students.networks, draw)

    def term(self, name: str, draw: Draw) -> Tensor:
        """See ConsistencyDistillation.term."""
        return self.losses.term(name, self.students.networks, draw)

    def weights_in_authors_order(self) -> dict[str, float]:
        """Weights of the terms that count, as the authors' code goes through them."""
        weights = asdict(self.losses.weights)
        return {name: weights[name] for name in AUTHORS_ORDER if weights[name]}

    @torch.no_grad()
    def examine(self, draw: Draw, guidance: GuidanceSchedule) -> Examination:
        """Losses, an unguided reconstruction, and pictures of the condition; guidance: of these pictures."""
        total, terms = self.objective(draw)
        models = self.model.parametrization, self.losses.boundaries
        code = encode(self.pair.forward, *models, draw.data, draw.noise, draw.condition)[-1]
        reconstructed = decode(self.pair.reverse, *models, code, draw.condition)
        errors = {"loss": total, "latent_mse": l2(reconstructed, draw.data)}
        errors |= {f"{name}_loss": values for name, values in terms.items()}
        generated = decode(self.pair.reverse, *models, draw.noise, draw.condition, guidance)
        return Examination(errors, *self.model.latents.decode(torch.cat([generated, reconstructed])).chunk(2))

    def export(self, folder: str, pipeline: str, network: str | None) -> None:
        """Write the students, and icd.json for InvertibleConsistency.load. pipeline, network: where the teacher is."""
        self.students.save(folder)
        self.pair.describe(folder, pipeline, network, self.students.settings)
