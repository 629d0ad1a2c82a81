"""Training of a text-conditional latent diffusion model: Stable Diffusion, only small (Rombach et al. 2022).

Classifier-free guidance by dropped prompts: Ho and Salimans 2022. Loss weights: Hang et al. 2023 (Min-SNR).
"""

from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn

from fewstep.backbones import STABLE_DIFFUSION_SCHEDULER, save_stable_diffusion
from fewstep.backbones.frozen_encoders import FrozenEncoders
from fewstep.choices import DTYPES, require_choice, require_range
from fewstep.diffusion.guidance import ClassifierFree, Condition, DynamicGuidance
from fewstep.diffusion.predictions import Parametrization
from fewstep.diffusion.schedules import schedule_of_config, training_times
from fewstep.diffusion.solvers import ddim, even_times
from fewstep.diffusion.training import denoising_losses
from fewstep.optimizers import AdamW
from fewstep.picture_size import height_and_width
from fewstep.rng import PerSampleRng
from lightning_modules.evaluation_steps import log_mean, sample_rng


class DiffusionTeacherModule(LightningModule):
    """Trains a UNet to denoise latents of images, given the states of their captions' tokens.

    Args:
        unet: diffusers' UNet2DConditionModel, a new one of fewstep.backbones.diffusers_network or a trained one of
            fewstep.backbones.pretrained_unet. Its sample_size, of the latents, one number or [height, width], is that
            of pictures of prompts, here and in the export.
        autoencoder, text_encoder: folders or hub ids (load_autoencoder, load_prompt_encoder of fewstep.backbones).
            Both are frozen; checkpoints hold only their hashes.
        train_text_encoder: train the text encoder, too, from the weights of its folder on. That of a CLIP forgets which
            of several persons wears what. Checkpoints and the export hold the trained one.
        text_length: of prompts in tokens, where one that is trained shall take more than that of its folder.
        prediction: "eps" or "v", on the schedule of Stable Diffusion.
        prompt_dropout: share of the training prompts that become "", the unguided prompt.
        min_snr_gamma: see Parametrization.min_snr_weight; None weights every time alike.
        sampling_steps: of DDIM, for a picture of every caption in validation and test; 0 for none.
            `data.splits.num_val` says how many that are.
        guidance_scale: of those pictures; 1 is unguided.
        optimizer: see fewstep.optimizers.AdamW.
        export_dtype: "float32" or "float16", of the exported weights.

    A batch has `image` and `caption`, or also the arrays `latent` and `prompt` that `python -m datamodules.prepare
    latents` has made of them, which saves their encoders.
    """

    def __init__(
        self,
        unet: nn.Module,
        autoencoder: str,
        text_encoder: str,
        train_text_encoder: bool = False,
        text_length: int | None = None,
        prediction: str = "eps",
        prompt_dropout: float = 0.1,
        min_snr_gamma: float | None = 5.0,
        sampling_steps: int = 0,
        guidance_scale: float = 4.0,
        optimizer: AdamW = AdamW(lr=2e-4, betas=(0.9, 0.99), weight_decay=0.01, warmup_steps=200),
        export_dtype: str = "float16",
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["unet", "optimizer"])
        require_choice("prediction", prediction, ("eps", "v"))
        require_choice("export_dtype", export_dtype, ("float32", "float16"))
        if not 0 <= prompt_dropout < 1:
            raise ValueError(f"prompt_dropout={prompt_dropout}: must be at least 0 and below 1")
        require_range("sampling_steps", sampling_steps)
        require_range("guidance_scale", guidance_scale)
        if min_snr_gamma is not None:
            require_range("min_snr_gamma", min_snr_gamma, above=True)
        self.unet, self.optimizer = unet, optimizer
        self.parametrization = Parametrization(schedule_of_config(STABLE_DIFFUSION_SCHEDULER), prediction)
        self.encoders = FrozenEncoders(autoencoder, text_encoder)
        if (known := set(self.encoders.null_condition)) != {"prompt"}:  # the export has one text encoder
            raise ValueError(
                f"text_encoder {text_encoder} gives {', '.join(sorted(known))}; choose one of a single CLIP"
            )
        self.encoders.check_network(unet.config)
        if text_length is not None and not train_text_encoder:
            raise ValueError(f"text_length={text_length}: longer prompts are learnt with train_text_encoder only")
        self.text_encoder = self.encoders.release_text_encoder(text_length) if train_text_encoder else None

    def setup(self, stage: str) -> None:
        self.encoders.to(self.trainer.strategy.root_device)

    def network(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """What the UNet answers [B, C, h, w] to x_t [B, C, h, w] at times t [B] in [0, 1]."""
        timestep = self.parametrization.schedule.timestep(t)
        return self.unet(x, timestep, encoder_hidden_states=condition["prompt"]).sample

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        if self.text_encoder is not None:
            data, condition = self._read_with_gradients(batch)
        else:
            data, condition = self.encoders.read(batch, training=True)
            dropped = torch.rand(len(data), 1, 1, device=data.device) < self.hparams.prompt_dropout
            condition = {"prompt": torch.where(dropped, self.encoders.null_condition["prompt"], condition["prompt"])}
        t = training_times(self.parametrization.schedule, torch.rand(len(data), device=data.device))
        loss = self._losses(data, torch.randn_like(data), t, condition).mean()
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def _read_with_gradients(self, batch: dict[str, Any]) -> tuple[Tensor, Condition]:
        """Latents and the states of captions, some of them dropped, by the text encoder that is trained."""
        if "prompt" in batch:
            raise ValueError("train_text_encoder needs captions, not stored states: take prompt out of --data.arrays")
        dropped = (torch.rand(len(batch["caption"])) < self.hparams.prompt_dropout).tolist()
        captions = ["" if drop else caption for drop, caption in zip(dropped, batch["caption"], strict=True)]
        return self.encoders.read_data(batch), self.encoders.prompts.with_gradients(captions, truncate=True)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """loss [B], each at one time and noise that belong to the key; `image` [B, 3, H, W] if sampling_steps > 0."""
        if batch_idx == 0:
            self.encoders.check_stored(batch)
        return self._evaluate("val/loss", batch)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        return self._evaluate("test/loss", batch)

    def _evaluate(self, log_key: str, batch: dict[str, Any]) -> dict[str, Tensor]:
        data, condition = self.encoders.read(batch, training=False)
        rng = sample_rng(batch["key"], data.device)
        noise, t = rng.normal(*data.shape[1:]), training_times(self.parametrization.schedule, rng.uniform())
        outputs = {"loss": self._losses(data, noise, t, condition)}
        log_mean(self, log_key, outputs["loss"], batch["weight"], prog_bar=True)
        if self.hparams.sampling_steps:
            outputs["image"] = self.generate(noise, condition, self.hparams.sampling_steps, self.hparams.guidance_scale)
        return outputs

    @torch.no_grad()
    def generate(self, noise: Tensor, condition: Condition, num_steps: int, guidance_scale: float) -> Tensor:
        """Images [B, 3, H, W] in [-1, 1] from noise [B, C, h, w] by DDIM; guidance_scale 1 is unguided."""
        null = self.encoders.null_condition if self.text_encoder is None else self.encoders.prompts.null_condition()
        denoiser = ClassifierFree(self.network, null)
        times, guidance = even_times(num_steps, 1.0, 0.0), DynamicGuidance(guidance_scale)
        return self.encoders.latents.decode(ddim(denoiser, self.parametrization, noise, times, condition, guidance))

    def generate_images(
        self, prompts: list[str], rng: PerSampleRng, num_steps: int | None = None, guidance_scale: float | None = None
    ) -> Tensor:
        """Images [B, 3, H, W] in [-1, 1] for prompts, cut if too long; None: as in validation, or in 50 steps."""
        h, size = self.hparams, height_and_width(self.unet.config["sample_size"], "sample_size")
        noise, condition = rng.normal(self.encoders.latents.channels, *size), self.encoders.prompts(prompts, True)
        w = h.guidance_scale if guidance_scale is None else guidance_scale
        return self.generate(noise, condition, num_steps or h.sampling_steps or 50, w)

    def _losses(self, data: Tensor, noise: Tensor, t: Tensor, condition: Condition) -> Tensor:
        gamma = self.hparams.min_snr_gamma
        return denoising_losses(self.network, self.parametrization, data, noise, t, condition, gamma)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.encoders.store_hashes(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.encoders.check_hashes(checkpoint)

    def export(self, folder: str) -> None:
        """Write a StableDiffusionPipeline that plain diffusers loads."""
        dtype = DTYPES[self.hparams.export_dtype]
        encoders = self.encoders.latents.autoencoder, self.encoders.prompts
        save_stable_diffusion(folder, self.unet, *encoders, self.hparams.prediction, dtype)

    def configure_optimizers(self) -> dict[str, Any]:
        return self.optimizer.configure(self.parameters(), lambda: self.trainer.estimated_stepping_batches)
