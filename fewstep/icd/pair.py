"""A distilled pair of students at work on pictures: generate, invert and edit in a few network calls."""

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from fewstep.backbones import Control, LatentDiffusion, load_latent_diffusion
from fewstep.diffusion.guidance import Denoiser, DynamicGuidance, require_trained
from fewstep.distillation.boundaries import Boundaries
from fewstep.distillation.students import load_students
from fewstep.icd.attention_control import attention_control
from fewstep.icd.code_scale import require_noise_scale
from fewstep.icd.description import SCHEMA, read_description
from fewstep.icd.editing import Editing, edit
from fewstep.icd.inversion import decode, encode
from fewstep.picture_size import Size, as_stored
from fewstep.rng import PerSampleRng

__all__ = ["Editing", "InvertibleConsistency"]


@dataclass(frozen=True)
class InvertibleConsistency:
    """Pictures [B, 3, H, W] in [-1, 1] <-> noise, by the students `forward` (encodes) and `reverse` (decodes).

    model: the pipeline that they were distilled from; its network is the one that the denoisers call.
    guidance_scales: those that the decoder knows. Noise comes from `rng`, one row per picture. code_scale: root mean
    square of codes, see fewstep.icd.code_scale, of which noise is drawn; None where nobody measured it, and then 1.
    ValueError in one line for prompts that are too long, pictures of another size and scales that were not trained.
    """

    model: LatentDiffusion
    forward: Denoiser
    reverse: Denoiser
    boundaries: Boundaries
    guidance_scales: tuple[float, ...]
    code_scale: float | None = None

    @classmethod
    def load(
        cls,
        folder: str | Path,
        pipeline: str | None = None,
        network: str | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        image_size: Size | None = None,
        control: Control | None = None,
        merged: Sequence[str] = (),
    ) -> "InvertibleConsistency":
        """What ICDModule exports. pipeline, network: where the teacher is, if not where it was in training.

        image_size: of the pictures in pixels, if not the one of training. control: beside the network of the denoisers,
        which are then told its picture as `control` of their condition. merged: students, "forward" or "reverse", whose
        adapters are merged once and cost nothing then but memory.
        """
        told = read_description(folder)
        places, size = (pipeline or told["pipeline"], network or told["network"]), image_size or told.get("image_size")
        model = load_latent_diffusion(*places, dtype, size, control).to(device)
        students = load_students(model, told["students"], folder, merged)
        boundaries = Boundaries(**told["boundaries"])
        scales = tuple(told["guidance_scales"])
        return cls(model, students.forward, students.reverse, boundaries, scales, told.get("code_scale"))

    def describe(self, folder: str | Path, pipeline: str, network: str | None, students: Mapping[str, Any]) -> None:
        """Write icd.json, which `load` reads beside the students' weights. students: Students.settings."""
        told = {"schema": SCHEMA, "pipeline": pipeline, "network": network, "students": dict(students)}
        told |= {"guidance_scales": list(self.guidance_scales), "boundaries": asdict(self.boundaries)}
        told["image_size"] = as_stored(self.model.image_size)
        if self.code_scale is not None:
            told["code_scale"] = self.code_scale
        Path(folder, "icd.json").write_text(json.dumps(told, indent=2) + "\n")

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[str],
        rng: PerSampleRng,
        guidance_scale: float = 8.0,
        guided_below: float = 1.0,
        noise_scale: float | None = None,
    ) -> Tensor:
        """Pictures of prompts, guided where t <= guided_below. noise_scale: of the noise, if not that of the codes."""
        require_trained(guidance_scale, self.guidance_scales)
        require_noise_scale(noise_scale)
        noise = rng.normal(self.model.latents.channels, *self.model.sample_size) * self.scale_of_noise(noise_scale)
        guidance = DynamicGuidance(guidance_scale, guided_below)
        return self.model.latents.decode(self._decode(noise, self.model.prompts(list(prompts)), guidance))

    def scale_of_noise(self, wanted: float | None = None) -> float:
        """What noise is multiplied by: the wanted factor, else the scale of the codes, as far as it is known."""
        known = self.code_scale if wanted is None else wanted
        return 1.0 if known is None else known

    def encode(self, images: Tensor, prompts: Sequence[str], rng: PerSampleRng) -> list[Tensor]:
        """Latents [B, C, h, w] at boundaries.encode_times; the last is the code. rng: see inversion.encode."""
        data, condition = self._latents(images), self.model.prompts(list(prompts))
        noise = rng.normal(*data.shape[1:])
        return encode(self.forward, self.model.parametrization, self.boundaries, data, noise, condition)

    def decode(
        self, code: Tensor, prompts: Sequence[str], guidance_scale: float = 1.0, guided_below: float = 1.0
    ) -> Tensor:
        """Pictures of a code [B, C, h, w]; unguided and under the prompts of its encoding, a reconstruction."""
        require_trained(guidance_scale, self.guidance_scales)
        guidance = DynamicGuidance(guidance_scale, guided_below)
        return self.model.latents.decode(self._decode(code, self.model.prompts(list(prompts)), guidance))

    def _decode(self, code: Tensor, condition: Any, guidance: DynamicGuidance) -> Tensor:
        return decode(self.reverse, self.model.parametrization, self.boundaries, code, condition, guidance)

    @torch.no_grad()
    def edit(
        self,
        images: Tensor,
        source: Sequence[str],
        target: Sequence[str],
        rng: PerSampleRng,
        editing: Editing | None = None,
        mask: Tensor | None = None,
        guidance_scales: Sequence[float] | None = None,
    ) -> Tensor:
        """Edited pictures [B, 3, H, W]. mask: [B, 1, H, W] in [0, 1], 1 where the picture may change.

        guidance_scales: one for each picture, in place of that of `editing`.
        """
        editing = editing or Editing()
        scales = [editing.guidance_scale] * len(images) if guidance_scales is None else guidance_scales
        if len(scales) != len(images):
            raise ValueError(f"{len(scales)} guidance scales for {len(images)} pictures; give one for each")
        for scale in scales:
            require_trained(scale, self.guidance_scales)
        data, (old, new) = self._latents(images), (self.model.prompts(list(texts)) for texts in (source, target))
        models = self.model.parametrization, self.boundaries
        states = encode(self.forward, *models, data, rng.normal(*data.shape[1:]), old)
        mask = None if mask is None else interpolate(mask, data.shape[-2:], mode="area")
        control: Any = nullcontext()
        if editing.backend == "prompt_to_prompt":
            steps = len(self.boundaries.decode_times) - 1
            plan = editing.prompt_to_prompt(self.model, source, target, steps)
            control = attention_control(self.model.network, plan)
        with control as held:
            edited = edit(
                self.reverse,
                *models,
                data,
                states,
                old,
                new,
                guidance=DynamicGuidance(torch.tensor(scales, device=data.device), editing.guided_below),
                prompt_below=editing.prompt_below,
                control=held,
                replay=editing.replay,
                mask=mask,
                difference=editing.guide_by == "difference",
            )
        return self.model.latents.decode(edited)

    def answer(self, batch: Mapping[str, Any], rng: PerSampleRng, editing: Editing) -> Tensor:
        """Pictures [B, 3, H, W] of `caption`, or where the batch has `image`, that image decoded under `target`.

        Without `target` it is reconstructed. `mask` [B, 1, H, W], if there, is 1 where the image may change.
        """
        source = batch["caption"]
        if "image" not in batch:
            return self.generate(source, rng, editing.guidance_scale, editing.guided_below, editing.noise_scale)
        if "target" not in batch:
            editing = replace(editing, guidance_scale=1.0)
        return self.edit(batch["image"], source, batch.get("target", source), rng, editing, batch.get("mask"))

    def _latents(self, images: Tensor) -> Tensor:
        height, width = self.model.image_size
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, height, width):
            raise ValueError(f"images must be [B, 3, {height}, {width}], got {list(images.shape)}; resize them")
        return self.model.latents.encode(images)
