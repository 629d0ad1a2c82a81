"""The quality of edited pictures, by networks that neither taught nor stopped the edit, and by the true edit."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.fast_edit.audit import HIDES
from benchmarks.fast_edit.edit_tasks import Task
from benchmarks.fast_edit.rivals import Looked
from fewstep.fast_edit.audit.auditor import Direction
from fewstep.fast_edit.audit.judge import Judge
from fewstep.fast_edit.audit.realism import denoising_error, high_frequency_ratio
from fewstep.fast_edit.direction.direction_loss import image_direction
from fewstep.fast_edit.edit_base import EditBase
from fewstep.rewards.attribute_reader import AttributeReader
from fewstep.rewards.trunks import resized

UNTOUCHED = 2 / 255  # a pixel whose true edit differs by less is background
RATIOS = ("realism", "high_frequency")  # whose means are geometric


@dataclass(frozen=True)
class Scores:
    """`scores(edited) -> {name: mean}`, for the task's `shown` pictures as they were edited, or the first
    of them. reader: not the one of looks. trained, held_out: CLIPs with the direction of the edit."""

    task: Task
    base: EditBase
    reader: AttributeReader
    trained: Direction
    held_out: Direction

    @torch.no_grad()
    def __call__(self, edited: Tensor) -> dict[str, float]:
        return {
            name: float(values.log().mean().exp() if name in RATIOS else values.mean())
            for name, values in self.values(edited).items()
        }

    @torch.no_grad()
    def values(self, edited: Tensor) -> dict[str, Tensor]:
        """Of each picture. direction: cosine of how it moved and should have. background: mean absolute difference to
        the source, pixels in [-1, 1], where the true edit changes nothing. realism: error of the frozen base, relative
        to that of the source."""
        sources = self.task.shown[: len(edited)]
        judge = Judge(self.reader, {self.task.attribute: self.task.value}, HIDES)
        before, after = judge.read(sources), judge.read(edited)
        values = {"asked": judge.has_asked(after).double(), "kept": judge.kept(before, after)}
        for name, (clip, direction) in (("trained", self.trained), ("held_out", self.held_out)):
            moved = image_direction(clip.embed_images(edited), clip.embed_images(sources))
            values[f"{name}_direction"] = moved @ direction.to(moved)
        true = self.task.true[: len(edited)]
        paired, before_it = edited[: len(true)], sources[: len(true)]
        untouched = ((true - before_it).abs().amax(1, keepdim=True) <= UNTOUCHED).float()
        change = (paired - before_it).abs().mean(1, keepdim=True)
        values["background"] = (change * untouched).sum((1, 2, 3)) / untouched.sum((1, 2, 3)).clamp(min=1)
        values["to_true_edit"] = (paired - true).abs().mean((1, 2, 3))
        values["realism"] = denoising_error(self.base, edited) / denoising_error(self.base, sources)
        values["high_frequency"] = high_frequency_ratio(edited, sources)
        values["features"] = F.cosine_similarity(self._features(edited), self._features(sources))
        return values

    def _features(self, pictures: Tensor) -> Tensor:
        """[N, F], of the reader before its heads; a perceptual space that is no CLIP's."""
        return self.reader.trunk(resized(pictures, self.reader.image_size)).flatten(1)


def look_of(task: Task, reader: AttributeReader) -> Callable[[Callable[[Tensor], Tensor]], Looked]:
    """The quality that learning is watched by, on pictures that are not judged, by a reader that does not judge."""
    judge = Judge(reader, {task.attribute: task.value}, HIDES)
    with torch.no_grad():
        before = judge.read(task.looked_at)

    @torch.no_grad()
    def look(apply: Callable[[Tensor], Tensor]) -> Looked:
        after = judge.read(apply(task.looked_at))
        return Looked(judge.has_asked(after).float().mean().item(), judge.kept(before, after).mean().item())

    return look
