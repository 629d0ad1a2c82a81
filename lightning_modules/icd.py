"""Invertible consistency distillation: generate in a few steps, invert real images in as few, and edit them by text.

Starodubcev et al. 2024, "Invertible Consistency Distillation for Text-Guided Image Editing in Around 7 Steps".
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor

from fewstep.backbones import load_latent_diffusion
from fewstep.backbones.frozen_encoders import FrozenEncoders
from fewstep.choices import DTYPES, require_choice
from fewstep.diffusion.guidance import Condition, draw_scales, require_trained
from fewstep.distillation.consistency import Draw
from fewstep.distillation.options import DistillationOptions
from fewstep.distillation.students import StudentOptions
from fewstep.files.weights import weights_sha256
from fewstep.icd.inversion import decode, encode
from fewstep.icd.pair import Editing, InvertibleConsistency
from fewstep.losses import l2
from fewstep.optimizers import AdamW
from fewstep.picture_size import Size, as_stored
from fewstep.rng import PerSampleRng
from lightning_modules.evaluation_steps import log_mean, sample_rng

AUTHORS_ORDER = ("reverse_cd", "forward_cd", "forward_preservation", "reverse_preservation", "full_cycle")


class ICDModule(LightningModule):
    """Trains two students of a guidance-distilled diffusion model: one encodes (`forward`), one decodes (`reverse`).

    Args:
        pipeline: folder or hub id of a diffusers pipeline (Stable Diffusion 1, 2, XL or 3); frozen.
        network: folder of its guidance-distilled UNet or transformer, such as GuidanceDistillationModule exports; None
            where the pipeline's own is one.
        guidance_scales: scales w to train the decoder on, 1 (unguided) among them; None means all that the network
            knows. Sampling and editing may use these and no others.
        distillation: boundaries, weights and distance of the losses, see fewstep.distillation.options.
        students: adapters or whole networks, see fewstep.distillation.students.StudentOptions.
        objective: "summed", an optimizer step for all terms, or "separate", one for each, as in the authors' code.
        optimizer: see fewstep.optimizers.AdamW.
        gradient_checkpointing: of the network, for less memory and a third more time.
        dtype: of the frozen weights: "float32", "bfloat16" or "float16".
        editing: how `predict` edits, and the scale at which validation draws pictures.
        image_size: of the pictures in pixels, one number for squares or [height, width]; None for the pipeline's own.

    A batch has `image` and `caption`, or also the arrays that `python -m datamodules.prepare latents` makes of them. To
    be edited by `predict`, it also has `target` list[str].
    """

    def __init__(
        self,
        pipeline: str,
        network: str | None = None,
        guidance_scales: Sequence[float] | None = None,
        distillation: DistillationOptions = DistillationOptions(),
        students: StudentOptions = StudentOptions(),
        objective: str = "summed",
        optimizer: AdamW = AdamW(lr=8e-6, schedule="constant"),
        gradient_checkpointing: bool = False,
        dtype: str = "float32",
        editing: Editing | None = None,
        image_size: Size | None = None,
    ) -> None:
        super().__init__()
        image_size = None if image_size is None else as_stored(image_size)
        self.save_hyperparameters(ignore=["distillation", "students", "optimizer", "editing"])
        require_choice("objective", objective, ("summed", "separate"))
        require_choice("dtype", dtype, DTYPES)
        self.automatic_optimization = objective == "summed"
        model = load_latent_diffusion(pipeline, network, DTYPES[dtype], image_size)
        self.model, self.parametrization = model, model.parametrization
        self.encoders = FrozenEncoders(model.latents, model.prompts)
        self.encoders.hashes["network"] = weights_sha256(model.network)
        self.guidance_scales = model.scales_to_train(guidance_scales)
        self.distillation = distillation.of(model.parametrization)
        self.editing = editing or Editing(guidance_scale=max(self.guidance_scales))
        require_trained(self.editing.guidance_scale, self.guidance_scales)
        if gradient_checkpointing:
            model.network.enable_gradient_checkpointing()
        self.students, self.optimizer = students.of(model), optimizer
        self.weights = self.students.weights  # all that is trained and stored

    def setup(self, stage: str) -> None:
        if self.hparams.objective == "separate" and (
            self.trainer.world_size > 1 or self.trainer.precision == "16-mixed"
        ):
            raise ValueError("objective='separate' works in one process without float16 scaling; use 'summed'")
        self.model.to(self.trainer.strategy.root_device)
        self.encoders.to(self.trainer.strategy.root_device)

    @property
    def pair(self) -> InvertibleConsistency:
        """The students at work on pictures."""
        networks, boundaries = self.students.networks, self.distillation.boundaries
        return InvertibleConsistency(self.model, networks.forward, networks.reverse, boundaries, self.guidance_scales)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor | None:
        data, condition = self.encoders.read(batch, training=True)
        uniform = torch.rand(len(data), 4, device=data.device)
        scale = draw_scales(self.guidance_scales, uniform[:, 3])
        draw = self.distillation.draw(data, torch.randn_like(data), uniform[:, :3], scale, condition)
        if not self.automatic_optimization:
            return self._step_for_each_term(draw)
        total, terms = self.distillation.objective(self.students.networks, draw)
        loss = total.mean()
        self.log("train/loss", loss, prog_bar=True)
        self.log_dict({f"train/{name}_loss": values.detach().mean() for name, values in terms.items()})
        return loss

    def _step_for_each_term(self, draw: Draw) -> None:
        """As the authors' code: backward, clipping to 1 and an Adam step for each term, the next with new weights."""
        wrapped, weights = self.optimizers(), asdict(self.distillation.weights)
        names = [name for name in AUTHORS_ORDER if weights[name]]
        for name in names:
            loss = weights[name] * self.distillation.term(name, self.students.networks, draw).mean()
            wrapped.optimizer.zero_grad()
            self.manual_backward(loss)
            torch.nn.utils.clip_grad_norm_(self.parameters(), 1.0)
            # Lightning counts the steps of the wrapped optimizer, and one iteration is one step.
            (wrapped if name == names[-1] else wrapped.optimizer).step()
            self.log(f"train/{name}_loss", loss.detach() / weights[name])
        self.lr_schedulers().step()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Losses, an unguided reconstruction and a picture of the caption; noise and times belong to the key."""
        if batch_idx == 0:
            self.encoders.check_stored(batch)
        return self._evaluate("val", batch)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        return self._evaluate("test", batch)

    def _evaluate(self, stage: str, batch: dict[str, Any]) -> dict[str, Tensor]:
        data, condition = self.encoders.read(batch, training=False)
        rng = sample_rng(batch["key"], data.device)
        noise, uniform = rng.normal(*data.shape[1:]), rng.uniform(4)
        draw = self.distillation.draw(
            data, noise, uniform[:, :3], draw_scales(self.guidance_scales, uniform[:, 3]), condition
        )
        total, terms = self.distillation.objective(self.students.networks, draw)
        reconstructed = self._reconstruct(data, noise, condition)
        errors = {"loss": total, "latent_mse": l2(reconstructed, data)}
        errors |= {f"{name}_loss": values for name, values in terms.items()}
        for name, values in errors.items():
            log_mean(self, f"{stage}/{name}", values, batch["weight"], prog_bar=name == "latent_mse")
        generated = decode(*self._decoder, noise, condition, self.editing.guidance)
        pictures = self.model.latents.decode(torch.cat([generated, reconstructed])).chunk(2)
        return {"image": pictures[0], "reference": batch["image"], "reconstruction": pictures[1], "loss": total}

    @property
    def _decoder(self) -> tuple[Any, ...]:
        return self.students.networks.reverse, self.parametrization, self.distillation.boundaries

    def _reconstruct(self, data: Tensor, noise: Tensor, condition: Condition) -> Tensor:
        """Latents [B, C, h, w], encoded and decoded without guidance."""
        models = self.parametrization, self.distillation.boundaries
        states = encode(self.students.networks.forward, *models, data, noise, condition)
        return decode(*self._decoder, states[-1], condition)

    def generate_images(self, prompts: list[str], rng: PerSampleRng, guidance_scale: float | None = None) -> Tensor:
        """Pictures [B, 3, H, W] in [-1, 1] of prompts; as validation draws them, or at another trained scale."""
        w = self.editing.guidance_scale if guidance_scale is None else guidance_scale
        return self.pair.generate(prompts, rng, w, self.editing.guided_below)

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """`image` [B, 3, H, W]: of the caption; with `image` in the batch the image encoded and decoded under `target`.

        A batch without `target` is reconstructed. `mask` [B, 1, H, W], if there, is 1 where the image may change.
        """
        rng = sample_rng(batch["key"], self.device)
        if "image" not in batch:
            return {"image": self.generate_images(batch["caption"], rng)}
        source, target = batch["caption"], batch.get("target", batch["caption"])
        editing = self.editing if "target" in batch else replace(self.editing, guidance_scale=1.0)
        return {"image": self.pair.edit(batch["image"], source, target, rng, editing, batch.get("mask"))}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.encoders.store_hashes(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.encoders.check_hashes(checkpoint)

    def export(self, folder: str) -> None:
        """Write the students, in the formats of peft and diffusers, and icd.json, which says how to use them."""
        self.students.save(folder)
        self.pair.describe(folder, self.hparams.pipeline, self.hparams.network, self.students.settings)

    def configure_optimizers(self) -> dict[str, Any]:
        return self.optimizer.configure(self.parameters(), lambda: self.trainer.estimated_stepping_batches)
