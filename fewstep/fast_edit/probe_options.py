"""Who looks at edits while they are learnt, as a config names it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from fewstep.choices import require_range
from fewstep.fast_edit.direction.clips import load_edit_clip
from fewstep.fast_edit.edit_texts import EditTexts
from fewstep.fast_edit.probes import AttributeProbe, TextProbe
from fewstep.metrics.features import full_float32
from fewstep.rewards.attribute_reader import load_attribute_reader
from fewstep.rewards.attributes import labels_of


@dataclass(frozen=True)
class ProbeOptions:
    """A reader of attributes or a CLIP, neither of them of the loss.

    A run logs `val/probe_share`, of edits with what is asked, and `val/probe_score`, their mean probability. This ends
    it where the share exceeds 0.9; every further step would move the edit away from the data, towards what only pleases
    its loss:

        callbacks:
          early_stopping:
            class_path: lightning.pytorch.callbacks.EarlyStopping
            init_args: {monitor: val/probe_share, mode: max, stopping_threshold: 0.9, patience: 1000}

    Args:
        reader: folder or hub id, see load_attribute_reader.
        wanted: what it shall find, such as {glasses: glasses}.
        clip: in its place, as `load_edit_clip` takes it; it compares the texts of the edit.
        threshold: the probability from which a picture has what the edit shall bring.
    """

    reader: str | None = None
    wanted: Mapping[str, str] = field(default_factory=dict)
    clip: str | None = None
    threshold: float = 0.5

    def __post_init__(self) -> None:
        require_range("probe.threshold", self.threshold, 0, 1)
        if (self.reader is None) == (self.clip is None):
            raise ValueError("a probe needs its reader or its clip, one of them")
        if (self.reader is None) == bool(self.wanted):
            raise ValueError(
                "probe.wanted is what probe.reader shall find, such as {glasses: glasses}: give both or none"
            )

    def of(self, texts: EditTexts, enlarge: int = 1) -> "Look":
        """enlarge: how often a CLIP sees every pixel. ValueError in one line, also for values that no reader knows."""
        if self.clip is not None:
            clip = load_edit_clip(self.clip, enlarge)
            return Look(TextProbe(clip, texts.source, texts.target, texts.templates), self.threshold)
        assert self.reader is not None
        reader = load_attribute_reader(self.reader)
        labels_of([self.wanted], reader.values)
        return Look(AttributeProbe(reader, self.wanted), self.threshold)


class Look(NamedTuple):
    """A probe at work."""

    probe: AttributeProbe | TextProbe
    threshold: float

    def __call__(self, pictures: Tensor) -> dict[str, Tensor]:
        """Of pictures [B, 3, H, W] in [-1, 1]: `probe_share` [B], 1 where it finds what is asked, and `probe_score`."""
        with full_float32(pictures.device):
            self.probe.to(pictures.device)
            scores = self.probe(pictures.float())
        return {"probe_share": (scores >= self.threshold).float(), "probe_score": scores}
