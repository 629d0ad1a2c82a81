"""How many generated pictures a reader of attributes is as sure of as of real ones, whatever they show."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.metrics.both_stages import in_both_stages
from callbacks.metrics.image_outputs import counted, generated_images, real_images
from callbacks.metrics.measurements import Measured, publish
from callbacks.metrics.rows import SampleValues, intervals
from fewstep.files.weights import weights_sha256
from fewstep.metrics.features import full_float32
from fewstep.rewards.attribute_reader import AttributeReader
from fewstep.rewards.attributes import certainty


@in_both_stages
class ReadableCallback(Callback):
    """Logs `val/readable` and `test/readable`: the share of generated pictures that pass where real ones do.

    Args:
        reader: such as fewstep.rewards.attribute_reader.load_attribute_reader returns: calibrated log-probabilities.
        hides: {attribute: others}: these do not count where the reader finds another value than "none" of the first,
            as of hair below a hat.
        real_share: of the real pictures that pass; which sets how certain the reader has to be. 0 to 1, both excluded.
        prefix: before the name, where several readers measure.

    Nothing is asked of a picture, so that this also measures models without conditions. Measure some hundred pictures:
    of few, the bound is that of the least certain real one, which is higher. Reads `image` of the outputs, `image`,
    `key` and `weight` of the batch. `rows` holds 1 for a picture that passes and 0 for others, by key order.
    """

    def __init__(
        self,
        reader: AttributeReader,
        hides: Mapping[str, Sequence[str]] | None = None,
        real_share: float = 0.99,
        prefix: str = "",
    ) -> None:
        if not 0 < real_share < 1:
            raise ValueError(f"real_share={real_share}: between 0 and 1, both excluded")
        _check_names(reader, hides or {})
        self.reader, self.hides, self.real_share, self.prefix = reader, hides or {}, real_share, prefix
        self.rows: dict[str, Tensor] = {}  # log key -> values [N], ordered by key
        self.measured: Measured = {}

    def start(self, trainer: Trainer) -> None:
        self.reader.to(trainer.strategy.root_device).eval()
        self._values = SampleValues()

    def add(self, outputs: dict[str, Any], batch: dict[str, Any]) -> None:
        rows = counted(batch)
        if rows.keys:
            made, real = self._certainty(generated_images(outputs, rows)), self._certainty(real_images(batch, rows))
            self._values.add(rows.keys, made=made, real=real)

    @torch.no_grad()
    def _certainty(self, pictures: Tensor) -> Tensor:
        with full_float32(pictures.device):
            return certainty(self.reader, pictures.float().div(127.5).sub(1), self.hides)

    def finish(self, stage: str, trainer: Trainer, module: LightningModule) -> None:
        keys, columns = self._values.gather()
        if not keys:
            raise ValueError(f"readable needs at least 1 image, got 0; is every sample of {stage} skipped?")
        least = columns["real"].quantile(1 - self.real_share)
        name = f"{stage}/{self.prefix}readable"
        self.rows = {name: (columns["made"] >= least).double()}
        protocol = {"metric": "certainty of a reader", "real_share": self.real_share, "num_generated": len(keys)}
        protocol |= {"least_log_p": least.item(), "weights_sha256": weights_sha256(self.reader)}
        self.measured = publish(trainer, module, {name: self.rows[name].mean().item()}, protocol)

    def intervals(self, num_draws: int = 1000, seed: int = 0) -> dict[str, tuple[float, float]]:
        """95 % bootstrap intervals over images by log key."""
        return intervals(self.rows, num_draws, seed)


def _check_names(reader: AttributeReader, hides: Mapping[str, Sequence[str]]) -> None:
    """ValueError in one line for an attribute that the reader does not know, or that is never absent."""
    for name, others in hides.items():
        if unknown := [word for word in (name, *others) if word not in reader.values]:
            raise ValueError(f"hides names {unknown[0]!r}; the reader knows {', '.join(reader.values)}")
        if "none" not in reader.values[name]:
            raise ValueError(f"hides.{name}: it is never 'none', its values are {', '.join(reader.values[name])}")
