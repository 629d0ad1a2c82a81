"""The audit of a learnt edit, by signals that it was not trained on.

A loss of one CLIP is lowered by adversarial texture as well as by edits. What such texture does not do: look like data
to the frozen base (realism), leave high frequencies as they are, move pictures in the space of another CLIP, convince a
reader of attributes. Two verdicts are given: of the edit, by means over its pictures, and of each picture by itself,
which marks it in the sheet. Single pictures scatter, so an edit may pass with some of them marked.

Why references: a true edit that adds glasses adds edges, so that its high frequencies are 1.4 times those of the
source, above any bound that would still stop stipple. So do real pictures with glasses against real ones without: what
is measured of the edit is divided by the same ratio between references, and 1.3 then means 1.3 times what is natural.
Realism is divided likewise, as some attributes are harder for the base than others. Without references the ratios stay
as they are, and edits that add edges may fail though they are true. The intervals are over the edit's pictures and do
not hold the scatter of the references.

Give the base: pixels that were moved through several views have deceived a held-out CLIP and a reader together, and
realism alone has told (benchmarks/fast_edit/audit.py, long hair).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fewstep.choices import require_range
from fewstep.fast_edit.audit.judge import Judge
from fewstep.fast_edit.audit.realism import FLAT, denoising_error, high_pass_energy
from fewstep.fast_edit.audit.report import AuditReport, Signal
from fewstep.fast_edit.direction.direction_loss import image_direction
from fewstep.fast_edit.edit_base import EditBase
from fewstep.files.weights import weights_sha256
from fewstep.rewards.clip_scores import CLIPSimilarity

LEAST_REFERENCES = 16  # with the attribute and without it each; better 200, whose high frequencies are known to 5 %
DENOISED_REFERENCES = 50  # of each, as network passes are dear; the realism of single pictures scatters less
USUAL = 0.95  # of real pictures; a picture whose own value is no higher is not marked, whatever its source had
BATCH = 64


@dataclass(frozen=True)
class Audit:
    """Bounds of the means over pictures; that of `asked` holds for the mean itself, the others for its interval.

    moved: the least cosine between how pictures moved and the edit's direction, in the space of the training's CLIP: an
    edit that does nothing has 0. True edits of avatars have 0.68 to 0.96.
    realism, high_frequency: the most. gap: the most by which the direction of the training's CLIP may exceed that of
    the held-out one, as cosines. asked: the least share of pictures with the asked attributes. kept: the least share of
    the other attributes that are as before. distance: the most that edits may be away from their sources, or None.
    """

    moved: float = 0.2
    realism: float = 1.15
    high_frequency: float = 1.3
    gap: float = 0.3
    asked: float = 0.8
    kept: float = 0.9
    distance: float | None = None

    def __post_init__(self) -> None:
        for name in ("realism", "high_frequency", "gap"):
            require_range(f"audit.{name}", getattr(self, name), above=True)
        for name in ("moved", "asked", "kept"):
            require_range(f"audit.{name}", getattr(self, name), 0, 1)
        if self.distance is not None:
            require_range("audit.distance", self.distance, above=True)


class Direction(NamedTuple):
    """A CLIP and the unit vector [D] of an edit in its space, of `text_direction`, in words that this CLIP knows."""

    clip: CLIPSimilarity
    direction: Tensor


Measure = Callable[[Tensor], Tensor]  # pictures [N, 3, H, W] -> [N] > 0


class Auditor:
    """`auditor(sources, edits) -> AuditReport`; both [N, 3, H, W] in [-1, 1], the edits row by row of the sources.

    trained: what the edit was trained on. held_out: another network, better yet of another kind. base: for realism.
    distance: ([N, 3, H, W], same) -> [N], of features that are no CLIP's, such as LPIPS. references: real pictures, by
    which ratios are judged, at least LEAST_REFERENCES with what is asked of the judge and as many without. Whatever is
    None is not measured; without held_out and judge nothing passes. Nothing is raised for an edit that fails.
    """

    def __init__(
        self,
        trained: Direction,
        held_out: Direction | None = None,
        base: EditBase | None = None,
        judge: Judge | None = None,
        distance: Callable[[Tensor, Tensor], Tensor] | None = None,
        references: Tensor | None = None,
        audit: Audit | None = None,
    ) -> None:
        if held_out is not None and weights_sha256(held_out.clip) == weights_sha256(trained.clip):
            raise ValueError("the held-out CLIP is the one of the training; give another network, or None")
        self.trained, self.held_out, self.judge, self.distance = trained, held_out, judge, distance
        self.audit = audit or Audit()
        self.measures: dict[str, Measure] = {"high_frequency": lambda x: high_pass_energy(x).clamp(min=FLAT)}
        if base is not None:
            self.measures = {"realism": lambda x: denoising_error(base, x)} | self.measures
        self._expected = dict.fromkeys(self.measures, 1.0)
        self._usual: dict[str, float] = {}
        if references is not None:
            self._use(references)

    @torch.no_grad()
    def _use(self, references: Tensor) -> None:
        """Ratios between real pictures with and without what is asked, and the usual values of those with it."""
        if self.judge is None:
            raise ValueError("references without a judge: give the reader that tells which of them show the edit")
        found = self.judge.read(references)
        visible = self.judge.asked_visible(found)
        shown, lacking = visible & self.judge.has_asked(found), visible & ~self.judge.has_asked(found)
        if min(shown.sum(), lacking.sum()) < LEAST_REFERENCES:
            told = f"{int(shown.sum())} references show {dict(self.judge.asked)}, {int(lacking.sum())} do not"
            raise ValueError(f"{told}: at least {LEAST_REFERENCES} of each are needed, or None")
        for name, measure in self.measures.items():
            most = DENOISED_REFERENCES if name == "realism" else len(references)
            having, without = (measure(references[rows][:most]) for rows in (shown, lacking))
            self._expected[name] = float((having.log().mean() - without.log().mean()).exp())
            self._usual[name] = float(having.quantile(USUAL))

    @torch.no_grad()
    def __call__(self, sources: Tensor, edits: Tensor) -> AuditReport:
        _check(sources, edits)
        signals = [self._ratio(name, measure, sources, edits) for name, measure in self.measures.items()]
        signals += self._directions(sources, edits)
        if self.judge is not None:
            before, after = self.judge.read(sources), self.judge.read(edits)
            right, kept = self.judge.has_asked(after), self.judge.kept(before, after)
            signals.append(Signal("asked", right.double(), ~right, self.audit.asked, least=True, by_mean=True))
            signals.append(Signal("kept", kept, kept < self.audit.kept, self.audit.kept, least=True))
        if self.distance is not None:
            parts = zip(edits.split(BATCH), sources.split(BATCH), strict=True)
            values, most = torch.cat([self.distance(edit, source) for edit, source in parts]), self.audit.distance
            signals.append(Signal("distance", values, values > (torch.inf if most is None else most), most))
        return AuditReport(tuple(signals), self.held_out is not None or self.judge is not None)

    def _ratio(self, name: str, measure: Measure, sources: Tensor, edits: Tensor) -> Signal:
        """Marked where the ratio is beyond the bound, and the value as well beyond what is usual of real pictures."""
        before, after, bound = measure(sources), measure(edits), getattr(self.audit, name)
        ratios = after / before / self._expected[name]
        usual = self._usual.get(name, float(before.quantile(USUAL)))
        return Signal(name, ratios, (ratios > bound) & (after > usual), bound, geometric=True)

    def _directions(self, sources: Tensor, edits: Tensor) -> list[Signal]:
        """Cosines [N] of how pictures moved and how they should have, in the space of each CLIP, and their gap."""
        found, least = self._cosines(self.trained, sources, edits), self.audit.moved
        signals = [Signal("trained_direction", found, found < least, least, least=True)]
        if self.held_out is None:
            return signals
        held_out = self._cosines(self.held_out, sources, edits)
        gap = found - held_out
        signals.append(Signal("held_out_direction", held_out, torch.zeros(len(edits), dtype=torch.bool)))
        return [*signals, Signal("direction_gap", gap, gap > self.audit.gap, self.audit.gap)]

    @staticmethod
    def _cosines(given: Direction, sources: Tensor, edits: Tensor) -> Tensor:
        embed = given.clip.embed_images
        pairs = zip(edits.split(BATCH), sources.split(BATCH), strict=True)
        moved = torch.cat([image_direction(embed(edit), embed(source)) for edit, source in pairs])
        return moved @ given.direction.to(moved)


def _check(sources: Tensor, edits: Tensor) -> None:
    if sources.shape != edits.shape or edits.ndim != 4 or edits.shape[1] != 3 or not len(edits):
        told = f"sources {list(sources.shape)} and edits {list(edits.shape)}"
        raise ValueError(f"{told}: both must be [N, 3, H, W], N at least 1")
    for name, pictures in (("sources", sources), ("edits", edits)):
        if not (pictures.is_floating_point() and (pictures.abs() <= 1 + 1e-3).all()):
            raise ValueError(f"{name} leave [-1, 1] or are no floats; clamp pictures before they are judged")
