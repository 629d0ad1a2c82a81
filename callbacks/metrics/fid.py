"""The Fréchet distance between generated and real images: the FID where the network is the FID Inception."""

import warnings
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from callbacks.metrics.both_stages import in_both_stages
from callbacks.metrics.image_outputs import counted
from callbacks.metrics.measurements import Measured, publish, sum_over_processes
from callbacks.metrics.two_samples import TwoSamples
from fewstep.metrics.features import FIDInception
from fewstep.metrics.frechet import FeatureMoments, Gaussian, frechet_distance, frechet_influence, read_gaussian
from fewstep.metrics.intervals import influence_interval

KEPT = 10_000  # samples whose influence says how far the value would be from that of other samples


@in_both_stages
class FIDCallback(Callback):
    """Logs `val/fid`, after a test `test/fid`; with a network other than the FID Inception `val/fd_NAME` instead.

    Args:
        network: feature network (fewstep/metrics/features.py); None for the FID Inception from torch's download cache.
        reference: an .npz with `mu` and `sigma` of the same network to compare with, instead of the batch's images.
        real_field: field of the batch that holds the real images.
        cache_dir: where the real images' features are kept; None for the user's cache folder.
        interval: also measure a 95 % interval, for which the features of up to 10,000 samples are kept (at most 330 MB
            for the FID Inception); None for evaluate.py only. It is of the mean over other samples, as many as now.

    Reads `image` of the outputs, and `weight` and `key` of the batch, of dataloader 0. Every image of weight 1 counts
    once, whatever the batches and processes. The distance is biased upwards on few images, most below D: a warning says
    so. `measured` holds the value with its protocol.
    """

    def __init__(
        self,
        network: nn.Module | None = None,
        reference: str | None = None,
        real_field: str = "image",
        cache_dir: str | None = None,
        interval: bool | None = None,
    ) -> None:
        self.samples = TwoSamples(network, KEPT, 0, None if reference else real_field, cache_dir)
        self.reference, self.real_field, self.interval = reference, real_field, interval
        self.measured: Measured = {}
        self.influence: dict[str, Tensor] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.samples.place(trainer, default=FIDInception)
        self._features = self.samples.features
        self._given = read_gaussian(self.reference, self._features.num_features) if self.reference else None

    def start(self, trainer: Trainer) -> None:
        sides = (FeatureMoments(self._features.num_features, trainer.strategy.root_device) for _ in range(2))
        self._real, self._generated = sides
        self.samples.clear()

    def add(self, outputs: dict[str, Any], batch: dict[str, Any]) -> None:
        rows = counted(batch)
        self._generated.add(self._features.generated(outputs, rows))
        if self._given is None:
            self._real.add(self._features.real(batch, rows, self.real_field))
        if self.interval:
            self.samples.add(outputs, batch)

    def finish(self, stage: str, trainer: Trainer, module: LightningModule) -> None:
        self._features.cache.flush()
        generated = self._whole(self._generated, trainer)
        real = self._given or self._whole(self._real, trainer)
        name = "fid" if self._features.name == "fid" else f"fd_{self._features.name}"
        generated, real = generated.gaussian(), real if isinstance(real, Gaussian) else real.gaussian()
        key = f"{stage}/{name}"
        self._warn_if_few(key, generated.num, real.num)
        protocol = {
            "metric": "Fréchet distance",
            "num_generated": generated.num,
            "num_real": real.num or None,
            "real": self.reference or f"`{self.real_field}` of the batches",
            "num_features": self._features.num_features,
            "features": self._features.protocol,
        }
        value = frechet_distance(real, generated)
        self.influence = {key: self._influence(real, generated, trainer)} if self.interval else {}
        intervals = {k: influence_interval(value, each, generated.num) for k, each in self.influence.items()}
        self.measured = publish(trainer, module, {key: value}, protocol, intervals)

    def _influence(self, real: Gaussian, generated: Gaussian, trainer: Trainer) -> Tensor:
        """Of each sample on the distance. A reference counts as known exactly."""
        real_rows, generated_rows, _ = self.samples.gather(trainer)
        return frechet_influence(real, generated, generated_rows, real_rows if self._given is None else None)

    def _whole(self, moments: FeatureMoments, trainer: Trainer) -> FeatureMoments:
        """The moments over all processes."""
        whole = FeatureMoments(0)
        whole.num, whole.sum, whole.outer_sum = sum_over_processes(trainer, *moments.sums())
        return whole

    def _warn_if_few(self, key: str, num_generated: int, num_real: int) -> None:
        least = min(num_generated, num_real or num_generated)
        if least <= self._features.num_features:
            warnings.warn(
                f"{key} of {num_generated} generated and {num_real or 'an unknown number of'} real images with "
                f"{self._features.num_features} features: with so few images it is biased upwards (and the covariance "
                "singular); compare only equal numbers, and read the unbiased KID beside it",
                stacklevel=2,
            )
