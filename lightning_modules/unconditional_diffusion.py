"""Training of a diffusion model of pixels without conditions (DDPM; Ho et al. 2020, arXiv 2006.11239)."""

from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn

from fewstep.backbones.pipelines import DDPM_SCHEDULER, PIXEL_SCHEDULES, save_ddpm
from fewstep.choices import DTYPES, require_choice, require_range
from fewstep.diffusion.guidance import Condition
from fewstep.diffusion.predictions import Parametrization
from fewstep.diffusion.schedules import schedule_of_config, training_times
from fewstep.diffusion.solvers import ddim, even_times
from fewstep.diffusion.training import denoising_losses
from fewstep.optimizers import AdamW
from lightning_modules.evaluation_steps import log_mean, sample_rng


class UnconditionalDiffusionModule(LightningModule):
    """Trains a UNet to denoise pictures.

    Args:
        unet: diffusers' UNet2DModel of three channels, such as fewstep.backbones.diffusers_network makes.
        prediction: "eps" or "v".
        beta_schedule: "linear", DDPM's, or "squaredcos_cap_v2" (Nichol and Dhariwal 2021), for small pictures.
        min_snr_gamma: see Parametrization.min_snr_weight; None weights every time alike, as DDPM.
        sampling_steps: of DDIM, for a picture of every sample in validation and test; 0 for none.
            `data.splits.num_val` says how many that are.
        optimizer: see fewstep.optimizers.AdamW.
        export_dtype: "float32" or "float16", of the exported weights.
    """

    def __init__(
        self,
        unet: nn.Module,
        prediction: str = "eps",
        beta_schedule: str = "linear",
        min_snr_gamma: float | None = None,
        sampling_steps: int = 0,
        optimizer: AdamW = AdamW(lr=2e-4, warmup_steps=200),
        export_dtype: str = "float16",
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["unet", "optimizer"])
        require_choice("prediction", prediction, ("eps", "v"))
        require_choice("beta_schedule", beta_schedule, PIXEL_SCHEDULES)
        require_choice("export_dtype", export_dtype, ("float32", "float16"))
        require_range("sampling_steps", sampling_steps)
        if min_snr_gamma is not None:
            require_range("min_snr_gamma", min_snr_gamma, above=True)
        channels = unet.config["in_channels"], unet.config["out_channels"]
        if channels != (3, 3):
            raise ValueError(f"the unet has {channels[0]} channels in and {channels[1]} out; pictures have 3")
        self.unet, self.optimizer = unet, optimizer
        schedule = schedule_of_config(DDPM_SCHEDULER | {"beta_schedule": beta_schedule})
        self.parametrization = Parametrization(schedule, prediction)

    def network(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """What the UNet answers [B, 3, H, W] to x_t [B, 3, H, W] at times t [B] in [0, 1]; the condition is empty."""
        return self.unet(x, self.parametrization.schedule.timestep(t)).sample

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        data = batch["image"]
        t = training_times(self.parametrization.schedule, torch.rand(len(data), device=data.device))
        loss = self._losses(data, torch.randn_like(data), t).mean()
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """loss [B], each at one time and noise that belong to the key; `image` [B, 3, H, W] if sampling_steps > 0."""
        return self._evaluate("val/loss", batch)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        return self._evaluate("test/loss", batch)

    def _evaluate(self, log_key: str, batch: dict[str, Any]) -> dict[str, Tensor]:
        data = batch["image"]
        rng = sample_rng(batch["key"], data.device)
        noise, t = rng.normal(*data.shape[1:]), training_times(self.parametrization.schedule, rng.uniform())
        outputs = {"loss": self._losses(data, noise, t)}
        log_mean(self, log_key, outputs["loss"], batch["weight"], prog_bar=True)
        if self.hparams.sampling_steps:
            outputs["image"] = self.generate(noise, self.hparams.sampling_steps)
        return outputs

    @torch.no_grad()
    def generate(self, noise: Tensor, num_steps: int) -> Tensor:
        """Pictures [B, 3, H, W] in [-1, 1] from noise of their shape, by DDIM."""

        def denoiser(x: Tensor, t: Tensor, guidance_scale: Tensor, condition: Condition) -> Tensor:
            return self.network(x, t, condition)

        return ddim(denoiser, self.parametrization, noise, even_times(num_steps, 1.0, 0.0), {}).clamp(-1, 1)

    def _losses(self, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        gamma = self.hparams.min_snr_gamma
        return denoising_losses(self.network, self.parametrization, data, noise, t, {}, gamma)

    def export(self, folder: str) -> None:
        """Write a DDPMPipeline that plain diffusers loads."""
        options = self.hparams
        save_ddpm(folder, self.unet, options.prediction, DTYPES[options.export_dtype], options.beta_schedule)

    def configure_optimizers(self) -> dict[str, Any]:
        return self.optimizer.configure(self.parameters(), lambda: self.trainer.estimated_stepping_batches)
