"""Features of real and generated images of an evaluation, for metrics that need the features themselves."""

from typing import Any

from lightning.pytorch import Trainer
from torch import Tensor

from callbacks.metrics.feature_sample import FeatureSample
from callbacks.metrics.image_outputs import counted
from callbacks.metrics.shared_features import SharedFeatures


class TwoSamples:
    """At most `limit` images of either side, chosen by `seed` and key alone: the same for every batch and process.

    real_field: of the batch; None to keep generated images only.
    """

    def __init__(self, features: SharedFeatures, limit: int, seed: int, real_field: str | None) -> None:
        self.features, self.limit, self.seed, self.real_field = features, limit, seed, real_field
        self._real, self._generated = (FeatureSample(features.num_features, limit, seed) for _ in range(2))
        features.cache.refresh()

    def add(self, outputs: dict[str, Any], batch: dict[str, Any]) -> None:
        rows = counted(batch)
        self._generated.add(rows.keys, self.features.generated(outputs, rows))
        if self.real_field is not None:
            self._real.add(rows.keys, self.features.real(batch, rows, self.real_field))

    def gather(self, trainer: Trainer) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """(real [n, D], generated [n, D], protocol) over all processes, every one of which must call it.

        Row i of both is of one sample.
        """
        self.features.cache.flush()
        (real, num_real), (generated, num_generated) = self._real.gather(trainer), self._generated.gather(trainer)
        device = trainer.strategy.root_device
        device = "cpu" if device.type == "mps" else device  # which has no float64
        protocol = {
            "num_generated": num_generated,
            "num_real": num_real,
            "num_used": [len(generated), len(real)],
            "seed": self.seed,
            "real": f"`{self.real_field}` of the batches",
            "features": self.features.protocol,
        }
        return real.to(device), generated.to(device), protocol
