"""How many of the attributes that were asked for a reader finds in generated pictures."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from callbacks.metrics.both_stages import in_both_stages
from callbacks.metrics.image_outputs import chosen, counted, generated_images
from callbacks.metrics.measurements import Measured, publish
from callbacks.metrics.rows import SampleValues, intervals
from fewstep.files.weights import weights_sha256
from fewstep.metrics.features import full_float32
from fewstep.rewards.attributes import Wanted, judge

MEANS = ("attributes_right", "all_right", "attributes_log_p")


@in_both_stages
class AttributeCallback(Callback):
    """Logs `val/attributes_right`, `val/all_right`, `val/attributes_log_p` and `val/right_ATTRIBUTE`, likewise `test/`.

    Args:
        reader: such as fewstep.rewards.attribute_reader.load_attribute_reader returns: calibrated log-probabilities.
        field: of the batch, with what is asked of each picture (see fewstep.rewards.attributes); list it in
            `--data.metadata`.
        prefix: before each name, where several readers measure.
        instead: {attribute: value} that is asked of every picture, or of every person in it, in place of its own: what
            an edit of pictures with these attributes shall bring.

    attributes_right: share of what is asked of a picture that the reader finds in it, mean over pictures; all_right:
    share of pictures with everything right. Pictures of which nothing is asked count in neither. Reads `image` of the
    outputs, `key` and `weight` of the batch. `rows` holds these values by key order.
    """

    def __init__(
        self,
        reader: nn.Module,
        field: str = "attributes",
        prefix: str = "",
        instead: Mapping[str, str] | None = None,
    ) -> None:
        self.reader, self.field, self.prefix, self.instead = reader, field, prefix, dict(instead or {})
        self.rows: dict[str, Tensor] = {}  # log key -> values [N], ordered by key
        self.measured: Measured = {}

    def start(self, trainer: Trainer) -> None:
        self.reader.to(trainer.strategy.root_device).eval()
        self._values = SampleValues()

    def add(self, outputs: dict[str, Any], batch: dict[str, Any]) -> None:
        rows = counted(batch)
        pictures = generated_images(outputs, rows)
        wanted = chosen(batch, self.field, rows, "attributes_right")
        if not wanted:
            return
        wanted = [changed(asked, self.instead) for asked in wanted]
        with full_float32(pictures.device):
            found = judge(self.reader, pictures.float().div(127.5).sub(1), wanted)
        right, asked = found.right.sum(1), found.asked.sum(1)  # over the persons
        each = {f"right {name}": right[:, place] for place, name in enumerate(self.reader.values)}
        each |= {f"asked {name}": asked[:, place] for place, name in enumerate(self.reader.values)}
        each |= dict(zip(MEANS, (found.share_right, found.all_right, found.mean_log_p), strict=True))
        told = asked.any(1)  # nothing is right or wrong of a picture of which nothing is asked
        keys = [key for key, counts in zip(rows.keys, told.tolist(), strict=True) if counts]
        self._values.add(keys, **{name: column[told] for name, column in each.items()})

    def finish(self, stage: str, trainer: Trainer, module: LightningModule) -> None:
        keys, columns = self._values.gather()
        if not keys:
            raise ValueError(
                f"attributes_right needs at least 1 image of which something is asked in `{self.field}`, got 0"
            )
        self.rows = {f"{stage}/{self.prefix}{name}": columns[name] for name in MEANS}
        values = {key: column.mean().item() for key, column in self.rows.items()}
        for name in self.reader.values:
            if asked := columns[f"asked {name}"].sum():
                values[f"{stage}/{self.prefix}right_{name}"] = (columns[f"right {name}"].sum() / asked).item()
        protocol = {"metric": "attributes by a reader", "num_generated": len(keys)}
        protocol["weights_sha256"] = weights_sha256(self.reader)
        self.measured = publish(trainer, module, values, protocol)

    def intervals(self, num_draws: int = 1000, seed: int = 0) -> dict[str, tuple[float, float]]:
        """95 % bootstrap intervals over images by log key."""
        return intervals(self.rows, num_draws, seed)


def changed(asked: Wanted, instead: Mapping[str, str]) -> Wanted:
    """What is asked of a picture, or of each person in it, with these values in place of its own."""
    return {**asked, **instead} if isinstance(asked, Mapping) else [{**person, **instead} for person in asked]
