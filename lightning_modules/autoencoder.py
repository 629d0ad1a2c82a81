"""Training of the autoencoder that a latent diffusion model stands on (Rombach et al. 2022, arXiv 2112.10752)."""

from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn

from fewstep.backbones import copied_to
from fewstep.choices import DTYPES, require_choice, require_range
from fewstep.diffusion.latent_space import mean_code
from fewstep.losses import l1, l2
from fewstep.optimizers import AdamW
from fewstep.pixels import to_uint8
from lightning_modules.evaluation_steps import log_mean

LOSSES = {"l1": l1, "l2": l2}
MOST_PSNR = 100.0  # dB, of equal pictures, whose PSNR is infinite


class AutoencoderModule(LightningModule):
    """Trains images to come back from a few numbers each.

    Args:
        model: diffusers' AutoencoderKL or AutoencoderTiny, such as fewstep.backbones.diffusers_network makes.
        loss: "l1" or "l2" between the pixels.
        kl_weight: of the KL divergence from the code's distribution to N(0, 1), per number of the code, which keeps
            codes small and smooth. Without effect on AutoencoderTiny, whose code is not random.
        perceptual: a frozen distance (images, references) -> [B] such as fewstep.metrics.perceptual.LPIPS, or None.
        perceptual_weight: of that distance.
        optimizer: see fewstep.optimizers.AdamW.
        export_dtype: "float32" or "float16", of the exported weights.

    val/psnr is the mean over images of 8 bit (callbacks.PairedImageCallback gives the same number with an interval).
    """

    def __init__(
        self,
        model: nn.Module,
        loss: str = "l1",
        kl_weight: float = 1e-4,
        perceptual: nn.Module | None = None,
        perceptual_weight: float = 0.1,
        optimizer: AdamW = AdamW(lr=1e-3, betas=(0.9, 0.99), warmup_steps=100),
        export_dtype: str = "float16",
    ) -> None:
        super().__init__()
        require_choice("loss", loss, LOSSES)
        require_choice("export_dtype", export_dtype, ("float32", "float16"))
        for name, value in (("kl_weight", kl_weight), ("perceptual_weight", perceptual_weight)):
            require_range(name, value)
        self.save_hyperparameters(ignore=["model", "perceptual", "optimizer"])
        self.model, self.optimizer = model, optimizer
        # In a tuple: what is frozen is neither stored in checkpoints nor set to training mode.
        self.perceptual = () if perceptual is None else (perceptual.eval().requires_grad_(False),)
        self.codes: list[tuple[float, float, int]] = []  # sum, sum of squares, count of the codes of an evaluation

    def setup(self, stage: str) -> None:
        for network in self.perceptual:
            network.to(self.trainer.strategy.root_device)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        h, images, terms = self.hparams, batch["image"], {}
        encoded = self.model.encode(images)
        variational = hasattr(encoded, "latent_dist")
        code = encoded.latent_dist.sample() if variational else encoded.latents
        reconstruction = self.model.decode(code).sample
        terms["reconstruction"] = LOSSES[h.loss](reconstruction, images).mean()
        if variational:
            terms["kl"] = h.kl_weight * encoded.latent_dist.kl().mean() / code[0].numel()
        for network in self.perceptual:
            terms["perceptual"] = h.perceptual_weight * network(reconstruction, images).mean()
        loss = torch.stack(list(terms.values())).sum()
        self.log("train/loss", loss, prog_bar=True)
        self.log_dict({f"train/{name}_loss": term for name, term in terms.items()})
        return loss

    def on_validation_epoch_start(self) -> None:
        self.codes = []

    on_test_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """image and reconstruction (the same) and reference [B, 3, H, W] in [-1, 1], psnr [B] in dB."""
        return self._evaluate("val", batch)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        return self._evaluate("test", batch)

    def _evaluate(self, stage: str, batch: dict[str, Any]) -> dict[str, Tensor]:
        images, weight = batch["image"], batch["weight"]
        code = mean_code(self.model.encode(images))
        reconstruction = self.model.decode(code).sample.float().clamp(-1, 1)
        counted = code[weight > 0].double()
        self.codes.append((counted.sum().item(), counted.square().sum().item(), counted.numel()))
        psnr = _psnr(reconstruction, images)
        for name, values in (("loss", LOSSES[self.hparams.loss](reconstruction, images)), ("psnr", psnr)):
            log_mean(self, f"{stage}/{name}", values, weight, prog_bar=True)
        return {"image": reconstruction, "reconstruction": reconstruction, "reference": images, "psnr": psnr}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["codes"] = [list(sums) for sums in self.codes]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.codes = [(float(a), float(b), int(n)) for a, b, n in checkpoint.get("codes", [])]

    def scaling_factor(self) -> float:
        """1 / standard deviation of the codes that this process saw in the latest validation or test."""
        total, squares, count = (sum(column) for column in zip(*self.codes, strict=True)) if self.codes else (0, 0, 0)
        if not count:
            raise ValueError("no image was encoded yet: validate or test before the export, to measure scaling_factor")
        return (squares / count - (total / count) ** 2) ** -0.5

    def export(self, folder: str) -> None:
        """Write a folder that diffusers' from_pretrained loads, with the measured scaling_factor in its config."""
        model = copied_to(self.model, DTYPES[self.hparams.export_dtype])
        model.register_to_config(scaling_factor=self.scaling_factor())
        model.save_pretrained(folder)

    def configure_optimizers(self) -> dict[str, Any]:
        return self.optimizer.configure(self.parameters(), lambda: self.trainer.estimated_stepping_batches)


def _psnr(images: Tensor, references: Tensor) -> Tensor:
    """dB [B] of 8-bit pictures."""
    error = l2(to_uint8(images).float(), to_uint8(references).float())
    return (10 * torch.log10(255**2 / error)).clamp(max=MOST_PSNR)
