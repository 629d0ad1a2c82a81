"""How true and how varied the generated images are: precision, recall, density and coverage."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from callbacks.metrics.both_stages import in_both_stages
from callbacks.metrics.measurements import Measured, publish
from callbacks.metrics.shared_features import shared_features
from callbacks.metrics.two_samples import TwoSamples
from fewstep.metrics.features import FIDInception
from fewstep.metrics.precision_recall import precision_recall_density_coverage


@in_both_stages
class DiversityCallback(Callback):
    """Logs `val/precision`, `val/recall`, `val/density`, `val/coverage`; after a test under `test/`.

    Args:
        neighbours: the ball of an image reaches to its k-th neighbour; 5 as in Naeem et al., 3 in Kynkäänniemi et al.
        network, max_images, seed, real_field, cache_dir: as in KIDCallback; the network stands in the protocol.

    All four depend on the number of images: compare equal numbers only.
    """

    def __init__(
        self,
        network: nn.Module | None = None,
        neighbours: int = 5,
        max_images: int = 10_000,
        seed: int = 0,
        real_field: str = "image",
        cache_dir: str | None = None,
    ) -> None:
        if not 1 <= neighbours < max_images:
            raise ValueError(f"neighbours={neighbours}: needed are 1 or more, and fewer than max_images={max_images}")
        self.network, self.real_field, self.cache_dir = network, real_field, cache_dir
        self.neighbours, self.max_images, self.seed = neighbours, max_images, seed
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
        shares = precision_recall_density_coverage(real, generated, self.neighbours)
        protocol |= {"metric": "precision and recall", "neighbours": self.neighbours}
        values = {f"{stage}/{name}": share for name, share in shares.items()}
        self.measured = publish(trainer, module, values, protocol)
