"""The student of adaptive collaboration: a teacher's pictures in one to four steps, where they are good enough.

Starodubcev et al. 2023, "Your Student is Better Than Expected: Adaptive Teacher-Student Collaboration for
Text-Conditional Diffusion Models" (arXiv 2312.10835); consistency distillation: Song et al. 2023.
"""

from collections.abc import Sequence
from typing import Any

from lightning import LightningModule
from torch import Tensor

from fewstep.backbones import load_latent_diffusion
from fewstep.choices import DTYPES, require_choice
from fewstep.collaboration.pipeline import Collaboration
from fewstep.collaboration.student_at_hand import CascadeOptions
from fewstep.collaboration.student_distillation import ConsistencyOptions, StudentDistillation
from fewstep.distillation.students import StudentOptions
from fewstep.optimizers import AdamW
from fewstep.picture_size import Size, as_stored
from fewstep.rng import PerSampleRng
from lightning_modules.evaluation_steps import log_mean, sample_rng


class CollaborationModule(LightningModule):
    """Trains a few-step student of a latent diffusion model, which drafts what the teacher improves where it must.

    Args:
        pipeline: folder or hub id of a diffusers pipeline (Stable Diffusion 1, 2, XL or 3); frozen.
        network: folder of another network in its place, such as a guidance-distilled one; None for the pipeline's own.
        guidance_scales: what the student learns to draw at; one where the teacher is guided classifier-free.
        distillation: see fewstep.collaboration.student_distillation.ConsistencyOptions.
        students: an adapter or a whole network, see fewstep.distillation.students.StudentOptions.
        optimizer: see fewstep.optimizers.AdamW.
        gradient_checkpointing: of the network, for less memory and a third more time.
        dtype: of the frozen weights: "float32", "bfloat16" or "float16".
        sampling_steps: of the student, for a picture of every caption in validation, test and predict.
        image_size: of the pictures in pixels, one number for squares or [height, width]; None for the pipeline's own.
        cascade: how `predict` draws with oracle and teacher, see fewstep.collaboration.student_at_hand.CascadeOptions;
            None for the student alone.

    A batch has `image` and `caption`, or also the arrays that `python -m datamodules.prepare latents` makes of them.
    """

    def __init__(
        self,
        pipeline: str,
        network: str | None = None,
        guidance_scales: Sequence[float] = (8.0,),
        distillation: ConsistencyOptions = ConsistencyOptions(),
        students: StudentOptions = StudentOptions(),
        optimizer: AdamW = AdamW(lr=1e-5, schedule="constant"),
        gradient_checkpointing: bool = False,
        dtype: str = "float32",
        sampling_steps: int = 4,
        image_size: Size | None = None,
        cascade: CascadeOptions | None = None,
    ) -> None:
        super().__init__()
        image_size = None if image_size is None else as_stored(image_size)
        self.save_hyperparameters(ignore=["distillation", "students", "optimizer", "cascade"])
        require_choice("dtype", dtype, DTYPES)
        model = load_latent_diffusion(pipeline, network, DTYPES[dtype], image_size)
        if gradient_checkpointing:
            model.network.enable_gradient_checkpointing()
        self.distillation = StudentDistillation.of(model, guidance_scales, distillation, students)
        self.encoders, self.student = self.distillation.encoders, self.distillation.student
        self.guidance_scale = max(self.distillation.guidance_scales)
        self.student.check(sampling_steps, self.guidance_scale)
        self.cascade, self._pipes = cascade, dict[tuple[int, float], Collaboration]()
        self.weights, self.optimizer = self.distillation.students.weights, optimizer  # all that is trained and stored

    def setup(self, stage: str) -> None:
        self.distillation.to(self.trainer.strategy.root_device)
        self._pipes.clear()  # of weights that may be others now

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        loss = self.distillation.loss(self.distillation.draw(batch)).mean()
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def optimizer_step(self, *args: Any, **options: Any) -> None:
        super().optimizer_step(*args, **options)
        self.distillation.move_target()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """The loss and a picture of the caption; noise and times belong to the key."""
        if batch_idx == 0:
            self.encoders.check_stored(batch)
        return self._evaluate("val", batch)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        return self._evaluate("test", batch)

    def _evaluate(self, stage: str, batch: dict[str, Any]) -> dict[str, Tensor]:
        rng = sample_rng(batch["key"], self.device)
        draw = self.distillation.draw(batch, rng)
        loss, image = self.distillation.examine(draw, rng, self.hparams.sampling_steps, self.guidance_scale)
        log_mean(self, f"{stage}/loss", loss, batch["weight"], prog_bar=True)
        return {"loss": loss, "image": image}

    def generate_images(
        self,
        prompts: list[str],
        rng: PerSampleRng,
        num_steps: int | None = None,
        guidance_scale: float | None = None,
        asked: list[Any] | None = None,
    ) -> Tensor:
        """Pictures [B, 3, H, W] in [-1, 1] of prompts by the cascade, or the student alone; None: as in validation.

        asked: the attributes of each, for oracles that read them.
        """
        model, w = self.distillation.model, self.guidance_scale if guidance_scale is None else guidance_scale
        steps = num_steps or self.hparams.sampling_steps
        if self.cascade is not None:
            if (steps, w) not in self._pipes:
                given = steps, w, DTYPES[self.hparams.dtype], self.device
                self._pipes[steps, w] = self.cascade.pipeline(self.export, *given)
            return self.cascade.draw(self._pipes[steps, w], prompts, rng.names, asked)
        noise = rng.normal(model.latents.channels, *model.sample_size)
        return model.latents.decode(self.student.draw(noise, model.prompts(prompts), rng, steps, w))

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """`image` [B, 3, H, W] in [-1, 1] of every `caption`."""
        rng = sample_rng(batch["key"], self.device)
        return {"image": self.generate_images(batch["caption"], rng, asked=batch.get("attributes"))}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.encoders.store_hashes(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.encoders.check_hashes(checkpoint)

    def export(self, folder: str) -> None:
        """Write the student, in the formats of peft and diffusers, and student.json, which says how to use it."""
        self.distillation.export(folder, self.hparams.pipeline, self.hparams.network)

    def configure_optimizers(self) -> dict[str, Any]:
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return self.optimizer.configure(trained, lambda: self.trainer.estimated_stepping_batches)
