"""A few-step student at work: one that was trained here, an LCM or Turbo pipeline, or the decoder of an iCD pair."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep.backbones import Control, LatentDiffusion, has_guidance_embedding, load_latent_diffusion
from fewstep.choices import require_range
from fewstep.collaboration.rollback import Rollback
from fewstep.diffusion.guidance import Condition, Denoiser, DynamicGuidance, require_trained
from fewstep.diffusion.solvers import consistency_sampling, ddim, even_times, time_like
from fewstep.distillation.students import load_student, unscaled
from fewstep.files.plain_reader import each, fields, optional, positive, read_fields, text, whole
from fewstep.files.weights import safetensors_sha256, weights_sha256
from fewstep.icd.description import read_description as read_icd_description
from fewstep.icd.description import students as student_settings
from fewstep.icd.pair import InvertibleConsistency
from fewstep.picture_size import Size, as_stored
from fewstep.rng import PerSampleRng

SCHEMA = 1
PARTS = fields(
    {
        "schema": whole,
        "pipeline": text,
        "network": optional(text),
        "students": student_settings,
        "guidance_scales": each(positive),
    }
)


@dataclass(frozen=True)
class Student:
    """Draws latents from noise in a few calls of its denoiser, each of one pass of the network.

    model: what it was distilled from, for its latents, prompts and schedule. guidance_scales: those that it knows; None
    for any, () for a network that is guided by nothing. times: of the only chain that it was made for, falling from 1
    to 0, which is deterministic then (iCD); None for stochastic chains of any number of steps (Song et al. 2023,
    Algorithm 1, without the last call of the released sampler, whose answer is thrown away). sha256: of the weights,
    and of how an export says that they are used.
    """

    model: LatentDiffusion
    denoiser: Denoiser
    guidance_scales: tuple[float, ...] | None
    times: tuple[float, ...] | None = None
    sha256: str = ""

    @torch.no_grad()
    def draw(
        self, noise: Tensor, condition: Condition, rng: PerSampleRng, num_steps: int = 4, guidance_scale: float = 1.0
    ) -> Tensor:
        """Latents [B, C, h, w] from noise [B, C, h, w] at t = 1; rng: noise between the steps, one row per sample."""
        self.check(num_steps, guidance_scale)
        if self.times is not None:
            guidance = DynamicGuidance(guidance_scale)
            return ddim(self.denoiser, self.model.parametrization, noise, self.times, condition, guidance)
        return self._chain(noise, condition, rng, even_times(num_steps, 1.0, 0.0), guidance_scale)

    @torch.no_grad()
    def edit(
        self,
        source: Tensor,
        noise: Tensor,
        condition: Condition,
        rng: PerSampleRng,
        strength: Rollback,
        num_steps: int = 4,
        guidance_scale: float = 1.0,
    ) -> Tensor:
        """Latents [B, C, h, w] from those of a source that is taken back with this noise [B, C, h, w].

        SDEdit (Meng et al. 2022) along a consistency chain: all num_steps lie on [0, t] of the strength.
        """
        self.check(num_steps, guidance_scale)
        self.check_editing()
        start = strength.time(self.model.parametrization.schedule)
        x = self.model.parametrization.add_noise(source, noise, time_like(source, start))
        return self._chain(x, condition, rng, even_times(num_steps, start, 0.0), guidance_scale)

    def _chain(
        self, x: Tensor, condition: Condition, rng: PerSampleRng, times: Sequence[float], guidance_scale: float
    ) -> Tensor:
        guidance = DynamicGuidance(guidance_scale)
        return consistency_sampling(self.denoiser, self.model.parametrization, x, times, condition, guidance, rng)

    def check_editing(self) -> None:
        """ValueError in one line for a student that cannot start between data and noise."""
        if self.times is not None:
            raise ValueError("this student draws along fixed times, from noise alone; edit with python -m fewstep.icd")

    def check(self, num_steps: int, guidance_scale: float) -> None:
        """ValueError in one line for what this student was not made for."""
        require_range("student steps", num_steps, 1)
        if self.times is not None and num_steps != len(self.times) - 1:
            raise ValueError(f"this student draws in {len(self.times) - 1} steps, not in {num_steps}")
        if self.guidance_scales == () and guidance_scale != 1:
            raise ValueError(f"guidance_scale {guidance_scale:g}: this student is not guided; give 1")
        if self.guidance_scales:
            require_trained(guidance_scale, self.guidance_scales)


def load_a_student(
    folder: str | Path,
    pipeline: str | None = None,
    network: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    image_size: Size | None = None,
    control: Control | None = None,
) -> Student:
    """The student of a CollaborationModule's export, of an ICDModule's, or of a pipeline that draws in few steps.

    pipeline, network: where the teacher is, if not where it was in training. A pipeline (folder or hub id) may have an
    embedding of w, as LCM has it, or none, as SDXL-Turbo. control: beside its network, see LatentDiffusion.
    """
    if Path(folder, "icd.json").is_file():
        pair = InvertibleConsistency.load(
            folder, pipeline, network, dtype, device, image_size, control, merged=("reverse",)
        )
        times = pair.boundaries.decode_times
        digest = export_sha256(folder, read_icd_description(folder))
        return Student(pair.model, pair.reverse, pair.guidance_scales, times, digest)
    if not Path(folder, "student.json").is_file():
        model = load_latent_diffusion(folder, network, dtype, image_size, control).to(device)
        scales = model.guidance_scales if has_guidance_embedding(model.network) else ()
        digest = weights_sha256(model.network)
        denoiser = unscaled(model.network, model.parametrization.schedule, control)
        return Student(model, denoiser, scales, None, digest)
    told = read_description(folder)
    size = image_size or told.get("image_size")
    places = pipeline or told["pipeline"], network or told["network"]
    model = load_latent_diffusion(*places, dtype, size, control).to(device)
    denoiser = load_student(model, told["students"], folder)
    return Student(model, denoiser, tuple(told["guidance_scales"]), None, export_sha256(folder, told))


def export_sha256(folder: str | Path, told: Mapping[str, Any]) -> str:
    """A hash of all weights below an export's folder, and of what its description tells of adapters and of times."""
    files = sorted(Path(folder).rglob("*.safetensors"))
    used = json.dumps({name: told.get(name) for name in ("students", "boundaries")}, sort_keys=True)
    return hashlib.sha256(" ".join([*map(safetensors_sha256, files), used]).encode()).hexdigest()[:16]


def is_export(student: str | Path) -> bool:
    """Whether it names its teacher, as exports of runs do; pipelines are complete in themselves."""
    return any(Path(student, name).is_file() for name in ("student.json", "icd.json"))


def describe_student(
    folder: str | Path, pipeline: str, network: str | None, settings: Mapping[str, Any], student: Student
) -> None:
    """Write student.json, which load_a_student reads beside the weights. settings: Students.settings."""
    told = {"schema": SCHEMA, "pipeline": pipeline, "network": network, "students": dict(settings)}
    told |= {"guidance_scales": list(student.guidance_scales or ()), "image_size": as_stored(student.model.image_size)}
    Path(folder, "student.json").write_text(json.dumps(told, indent=2) + "\n")


def read_description(folder: str | Path) -> dict[str, Any]:
    """What FOLDER/student.json says; ValueError in one line where a part is lacking or of another kind."""
    try:
        told = read_fields(Path(folder, "student.json"), PARTS)
        if told["schema"] != SCHEMA or not told["guidance_scales"]:
            raise ValueError(f"schema {told['schema']} with guidance_scales {told['guidance_scales']}")
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder}/student.json is not what a collaboration run exports: {error}") from None
    return told
