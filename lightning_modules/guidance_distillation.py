"""Classifier-free guidance folded into one network that is told the scale: stage one of few-step distillation.

Meng et al. 2023 (On Distillation of Guided Diffusion Models), section 3.1; iCD's teachers are made so (Starodubcev et
al. 2024, appendix A), by code that was never released.
"""

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor

from fewstep.backbones import (
    DiffusersDenoiser,
    add_guidance_embedding,
    load_guided_network,
    load_latent_diffusion,
    save_guided_network,
)
from fewstep.backbones.frozen_encoders import FrozenEncoders
from fewstep.choices import DTYPES, require_choice
from fewstep.diffusion.guidance import draw_scales, guidance_distillation, guide
from fewstep.diffusion.schedules import training_times
from fewstep.files.hub import check_keys
from fewstep.losses import l2
from fewstep.optimizers import AdamW
from fewstep.picture_size import Size, as_stored
from lightning_modules.evaluation_steps import log_mean, sample_rng


class GuidanceDistillationModule(LightningModule):
    """Trains a copy of a latent diffusion network to answer at once what guidance makes of two answers.

    Args:
        pipeline: folder or hub id of a diffusers pipeline (Stable Diffusion 1, 2, XL or 3); frozen.
        network: folder of another UNet or transformer in its place, without guidance embedding.
        start_from: folder of a guided network to go on from, such as an earlier run's export; None for the teacher.
        guidance_scales: the positive scales w to learn, each as likely, 1 (unguided) among them; for Stable Diffusion
            1.5 iCD's are 1, 8, 12, 16, 20. They are stored with the exported network, which may be asked no others.
        embedding_dim: Fourier features of w.
        optimizer: see fewstep.optimizers.AdamW.
        gradient_checkpointing: of the network, for less memory and a third more time.
        export_dtype: "float32" or "float16", of the exported weights.
        image_size: of the pictures in pixels, one number for squares or [height, width]; None for the pipeline's own.

    A batch has `image` and `caption`, or also the arrays that `python -m datamodules.prepare latents` makes of them.
    """

    def __init__(
        self,
        pipeline: str,
        network: str | None = None,
        guidance_scales: Sequence[float] = (1.0, 2.0, 4.0, 6.0, 8.0),
        embedding_dim: int = 512,
        optimizer: AdamW = AdamW(warmup_steps=200),
        gradient_checkpointing: bool = False,
        export_dtype: str = "float16",
        image_size: Size | None = None,
        start_from: str | None = None,
    ) -> None:
        super().__init__()
        image_size = None if image_size is None else as_stored(image_size)
        self.save_hyperparameters(ignore=["optimizer"])
        self.optimizer = optimizer
        if 1.0 not in guidance_scales or not all(0 < w < math.inf for w in guidance_scales):
            raise ValueError(f"guidance_scales={list(guidance_scales)}: positive, and 1, which is unguided, among them")
        require_choice("export_dtype", export_dtype, ("float32", "float16"))
        self.teacher = load_latent_diffusion(pipeline, network, image_size=image_size)
        self.parametrization = self.teacher.parametrization
        self.encoders = FrozenEncoders.of(self.teacher)
        student = add_guidance_embedding(copy.deepcopy(self.teacher.network), embedding_dim)
        if start_from is not None:
            earlier = load_guided_network(start_from)[0].state_dict()
            check_keys(earlier, student.state_dict(), start_from)
            student.load_state_dict(earlier)
        self.model = student.requires_grad_(True).train()
        if gradient_checkpointing:
            self.model.enable_gradient_checkpointing()
        self.student = DiffusersDenoiser(self.model, self.parametrization.schedule)

    def setup(self, stage: str) -> None:
        self.teacher.to(self.trainer.strategy.root_device)
        self.encoders.to(self.trainer.strategy.root_device)
        self.guided = self.teacher.denoiser()  # two answers of the frozen network and their extrapolation

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        data, condition = self.encoders.read(batch, training=True)
        uniform = torch.rand(2, len(data), device=data.device)
        t = training_times(self.parametrization.schedule, uniform[0])
        scale = draw_scales(self.hparams.guidance_scales, uniform[1])
        x = self.parametrization.add_noise(data, torch.randn_like(data), t)
        loss = guidance_distillation(self.student, self.guided, x, t, scale, condition).mean()
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Relative squared error of the network at each scale, at one time and noise that belong to the key."""
        if batch_idx == 0:
            self.encoders.check_stored(batch)
        self._evaluate("val", batch)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._evaluate("test", batch)

    def _evaluate(self, stage: str, batch: dict[str, Any]) -> None:
        data, condition = self.encoders.read(batch, training=False)
        rng = sample_rng(batch["key"], data.device)
        noise, t = rng.normal(*data.shape[1:]), training_times(self.parametrization.schedule, rng.uniform())
        x = self.parametrization.add_noise(data, noise, t)
        unconditional, conditional = (self.guided(x, t, torch.full_like(t, w), condition) for w in (0.0, 1.0))
        total = torch.zeros(len(data), device=data.device)
        for w in self.hparams.guidance_scales:
            scale = torch.full_like(t, w)
            target = guide(unconditional, conditional, scale)
            error = l2(self.student(x, t, scale, condition), target) / l2(target, torch.zeros_like(target))
            log_mean(self, f"{stage}/relative_error_w{w:g}", error, batch["weight"])
            total = total + error / len(self.hparams.guidance_scales)
        log_mean(self, f"{stage}/relative_error", total, batch["weight"])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.encoders.store_hashes(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.encoders.check_hashes(checkpoint)

    def export(self, folder: str) -> None:
        """Write the network and its scales. A diffusers pipeline with this UNet guides in a single pass."""
        save_guided_network(folder, self.model, self.hparams.guidance_scales, DTYPES[self.hparams.export_dtype])

    def configure_optimizers(self) -> dict[str, Any]:
        return self.optimizer.configure(self.parameters(), lambda: self.trainer.estimated_stepping_batches)
