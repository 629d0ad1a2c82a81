"""The kernel distance between generated and real images: the KID where the network is the FID Inception."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from callbacks.metrics.both_stages import in_both_stages
from callbacks.metrics.measurements import Measured, publish
from callbacks.metrics.shared_features import shared_features
from callbacks.metrics.two_samples import TwoSamples
from fewstep.metrics.features import FIDInception
from fewstep.metrics.intervals import influence_interval
from fewstep.metrics.kernel_distance import kid, kid_influence


@in_both_stages
class KIDCallback(Callback):
    """Logs `val/kid` and its spread over subsets `val/kid_std`; with another network `val/kd_NAME`. `test/` likewise.

    Args:
        network, real_field, cache_dir: as in FIDCallback; equal networks are shared and run once per batch.
        subsets, subset_size, seed: the mean over so many random subsets; see `fewstep.metrics.kernel_distance.kid`.
        max_images: features kept of either side; of more images a random sample, the same for every batch size.
        interval: also measure a 95 % interval, see FIDCallback; at 10,000 images as long as 100 subsets of 1000.

    Unbiased, so small numbers of images may be compared; values a little below 0 are as good as 0.
    """

    def __init__(
        self,
        network: nn.Module | None = None,
        subsets: int = 100,
        subset_size: int = 1000,
        max_images: int = 10_000,
        seed: int = 0,
        real_field: str = "image",
        cache_dir: str | None = None,
        interval: bool | None = None,
    ) -> None:
        if not 2 <= subset_size <= max_images or subsets < 1:
            raise ValueError(
                f"subsets={subsets}, subset_size={subset_size}, max_images={max_images}: needed are subsets >= 1 and "
                "2 <= subset_size <= max_images"
            )
        self.network, self.real_field, self.cache_dir = network, real_field, cache_dir
        self.subsets, self.subset_size, self.max_images, self.seed = subsets, subset_size, max_images, seed
        self.interval = interval
        self.measured: Measured = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.network = FIDInception() if self.network is None else self.network
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
        name = "kid" if self._features.name == "fid" else f"kd_{self._features.name}"
        result = kid(real, generated, self.subsets, self.subset_size, self.seed)
        protocol |= {"metric": "kernel distance", "subsets": self.subsets, "subset_size": self.subset_size}
        values = {f"{stage}/{name}": result.mean, f"{stage}/{name}_std": result.std}
        intervals = {}
        if self.interval:
            of_subsets = result.std**2 / self.subsets
            influence = kid_influence(real, generated)
            intervals[f"{stage}/{name}"] = influence_interval(result.mean, influence, variance=of_subsets)
        self.measured = publish(trainer, module, values, protocol, intervals)
