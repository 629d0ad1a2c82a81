"""Invertible consistency distillation: generate in a few steps, invert real images in as few, and edit them by text.

Starodubcev et al. 2024, "Invertible Consistency Distillation for Text-Guided Image Editing in Around 7 Steps".
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor

from fewstep.backbones import load_latent_diffusion
from fewstep.choices import DTYPES, require_choice
from fewstep.diffusion.guidance import require_trained
from fewstep.distillation.options import DistillationOptions
from fewstep.distillation.students import StudentOptions
from fewstep.files.plain_reader import optional
from fewstep.icd.code_scale import code_scale, scale_of_codes
from fewstep.icd.pair import Editing
from fewstep.icd.pair_distillation import PairDistillation
from fewstep.optimizers import AdamW
from fewstep.picture_size import Size, as_stored
from fewstep.rng import PerSampleRng
from lightning_modules.evaluation_steps import log_mean, sample_rng
from lightning_modules.term_steps import require_one_process, step_for_each_term


class ICDModule(LightningModule):
    """Trains two students of a guidance-distilled diffusion model: one encodes (`forward`), one decodes (`reverse`).

    Args:
        pipeline: folder or hub id of a diffusers pipeline (Stable Diffusion 1, 2, XL or 3); frozen.
        network: folder of its guidance-distilled UNet or transformer, such as GuidanceDistillationModule exports; None
            where the pipeline's own is one.
        guidance_scales: scales w to train the decoder on, 1 (unguided) among them; None means all that the network
            knows. Sampling and editing may use these and no others.
        distillation: boundaries, weights, distances and phases of the losses, see fewstep.distillation.options.
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
        if gradient_checkpointing:
            model.network.enable_gradient_checkpointing()
        self.distillation = PairDistillation.of(model, guidance_scales, distillation, students)
        self.encoders, self.pair = self.distillation.encoders, self.distillation.pair
        self._codes = torch.zeros(2)  # of this validation: sum of the mean squares of codes, and how many codes
        self.editing = editing or Editing(guidance_scale=max(self.pair.guidance_scales))
        require_trained(self.editing.guidance_scale, self.pair.guidance_scales)
        self.weights, self.optimizer = self.distillation.students.weights, optimizer  # all that is trained and stored

    def setup(self, stage: str) -> None:
        if self.hparams.objective == "separate":
            require_one_process(self.trainer)
        self.distillation.to(self.trainer.strategy.root_device)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor | None:
        draw, step = self.distillation.draw(batch), self.global_step
        if not self.automatic_optimization:
            weights = self.distillation.weights_in_authors_order(step)
            return step_for_each_term(self, weights, partial(self.distillation.term, draw=draw))
        total, terms = self.distillation.objective(draw, step)
        loss = total.mean()
        self.log("train/loss", loss, prog_bar=True)
        self.log_dict({f"train/{name}_loss": values.detach().mean() for name, values in terms.items()})
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Losses, an unguided reconstruction and a picture of the caption; noise and times belong to the key."""
        if batch_idx == 0:
            self.encoders.check_stored(batch)
        return self._evaluate("val", batch)

    def on_validation_epoch_start(self) -> None:
        self._codes = torch.zeros(2, device=self.device)

    def on_validation_epoch_end(self) -> None:
        """How large codes are, of the averaged weights; pictures are drawn so from now on."""
        if not self.trainer.sanity_checking:
            total, rows = self.trainer.strategy.reduce(self._codes, reduce_op="sum").tolist()
            self.pair = replace(self.pair, code_scale=scale_of_codes(total, rows))

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        return self._evaluate("test", batch)

    def _evaluate(self, stage: str, batch: dict[str, Any]) -> dict[str, Tensor]:
        draw = self.distillation.draw(batch, sample_rng(batch["key"], self.device))
        noise_scale = self.pair.scale_of_noise(self.editing.noise_scale)
        errors, generated, reconstructed = self.distillation.examine(draw, self.editing.guidance, noise_scale)
        if stage == "val":
            squares = errors["code_mean_square"] * batch["weight"]
            self._codes += torch.stack([squares.sum(), batch["weight"].sum()])
        for name, values in errors.items():
            log_mean(self, f"{stage}/{name}", values, batch["weight"], prog_bar=name == "latent_mse")
        pictures = {"image": generated, "reference": batch["image"], "reconstruction": reconstructed}
        return {**pictures, "loss": errors["loss"]}

    def generate_images(self, prompts: list[str], rng: PerSampleRng, guidance_scale: float | None = None) -> Tensor:
        """Pictures [B, 3, H, W] in [-1, 1] of prompts; as validation draws them, or at another trained scale."""
        w = self.editing.guidance_scale if guidance_scale is None else guidance_scale
        return self.pair.generate(prompts, rng, w, self.editing.guided_below, self.editing.noise_scale)

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """`image` [B, 3, H, W] in [-1, 1]: drawn, reconstructed or edited, see InvertibleConsistency.answer."""
        return {"image": self.pair.answer(batch, sample_rng(batch["key"], self.device), self.editing)}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.encoders.store_hashes(checkpoint)
        checkpoint["code_scale"] = self.pair.code_scale

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.encoders.check_hashes(checkpoint)
        scale = checkpoint.get("code_scale")  # earlier versions did not measure it
        optional(code_scale)(scale, "the checkpoint's code_scale")
        self.pair = replace(self.pair, code_scale=scale)

    def export(self, folder: str) -> None:
        """Write the students, in the formats of peft and diffusers, and icd.json, which says how to use them."""
        self.distillation.export(folder, self.hparams.pipeline, self.hparams.network, self.pair.code_scale)

    def configure_optimizers(self) -> dict[str, Any]:
        return self.optimizer.configure(self.parameters(), lambda: self.trainer.estimated_stepping_batches)
