"""CMMD: a kernel distance between the CLIP embeddings of generated and real images."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from callbacks.measurements import Measured, publish
from callbacks.shared_features import shared_features
from callbacks.two_samples import TwoSamples
from fewstep.features import CLIPImage
from fewstep.kernel_distance import cmmd


class CMMDCallback(Callback):
    """Logs `val/cmmd`, after a test `test/cmmd`; with a network other than OpenAI's ViT-L/14 at 336 `val/cmmd_NAME`.

    Args:
        network: feature network with unit-length embeddings; None for the published `fewstep.features.CLIPImage()`.
        max_images, seed, real_field, cache_dir: as in KIDCallback.

    The published estimate, which is biased on few images: compare equal numbers only.
    """

    def __init__(
        self,
        network: nn.Module | None = None,
        max_images: int = 10_000,
        seed: int = 0,
        real_field: str = "image",
        cache_dir: str | None = None,
    ) -> None:
        self.network, self.real_field, self.cache_dir = network, real_field, cache_dir
        self.max_images, self.seed = max_images, seed
        self.measured: Measured = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.network = CLIPImage() if self.network is None else self.network
        self._features = shared_features(self.network, self.cache_dir, trainer)
        self.network = self._features.network

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._samples = TwoSamples(self._features, self.max_images, self.seed, self.real_field)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: dict[str, Any],
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if dataloader_idx == 0:
            self._samples.add(outputs, batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log("val", trainer, pl_module)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log("test", trainer, pl_module)

    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_end = on_validation_batch_end

    def _log(self, stage: str, trainer: Trainer, module: LightningModule) -> None:
        real, generated, protocol = self._samples.gather(trainer)
        if trainer.sanity_checking:
            return
        name = "cmmd" if self._features.name == "clip_l14_336" else f"cmmd_{self._features.name}"
        protocol |= {"metric": "CMMD", "sigma": 10.0, "scale": 1000.0}
        self.measured = publish(trainer, module, {f"{stage}/{name}": cmmd(real, generated)}, protocol)
