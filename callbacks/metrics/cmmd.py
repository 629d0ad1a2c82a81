"""CMMD: a kernel distance between the CLIP embeddings of generated and real images."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from callbacks.metrics.both_stages import in_both_stages
from callbacks.metrics.measurements import Measured, publish
from callbacks.metrics.shared_features import shared_features
from callbacks.metrics.two_samples import TwoSamples
from fewstep.metrics.features import CLIPImage
from fewstep.metrics.intervals import influence_interval
from fewstep.metrics.kernel_distance import cmmd, cmmd_influence


@in_both_stages
class CMMDCallback(Callback):
    """Logs `val/cmmd`, after a test `test/cmmd`; with a network other than OpenAI's ViT-L/14 at 336 `val/cmmd_NAME`.

    Args:
        network: feature network with unit-length embeddings; None for the published one, features.CLIPImage().
        max_images, seed, real_field, cache_dir, interval: as in KIDCallback.

    The published estimate, which is biased on few images: compare equal numbers only.
    """

    def __init__(
        self,
        network: nn.Module | None = None,
        max_images: int = 10_000,
        seed: int = 0,
        real_field: str = "image",
        cache_dir: str | None = None,
        interval: bool | None = None,
    ) -> None:
        self.network, self.real_field, self.cache_dir = network, real_field, cache_dir
        self.max_images, self.seed, self.interval = max_images, seed, interval
        self.measured: Measured = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.network = CLIPImage() if self.network is None else self.network
        self._features = shared_features(self.network, self.cache_dir, trainer)
        self.network = self._features.network

    def start(self, trainer: Trainer) -> None:
        self._samples = TwoSamples(self._features, self.max_images, self.seed, self.real_field)

    def add(self, outputs: dict[str, Any], batch: dict[str, Any]) -> None:
        self._samples.add(outputs, batch)

    def finish(self, stage: str, trainer: Trainer, module: LightningModule) -> None:
        real, generated, protocol = self._samples.gather(trainer)
        if trainer.sanity_checking:
            return
        name = "cmmd" if self._features.name == "clip_l14_336" else f"cmmd_{self._features.name}"
        protocol |= {"metric": "CMMD", "sigma": 10.0, "scale": 1000.0}
        key, value = f"{stage}/{name}", cmmd(real, generated)
        intervals = {key: influence_interval(value, cmmd_influence(real, generated))} if self.interval else {}
        self.measured = publish(trainer, module, {key: value}, protocol, intervals)
