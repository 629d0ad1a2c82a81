"""What an audit found: each signal with its interval and bound, of the edit as a whole and of its single pictures."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from fewstep.metrics.intervals import bootstrap_mean

NOT_AUDITED = (
    "no held-out judge (another CLIP, or a reader of attributes): an edit judged only by its own CLIP is not audited"
)


@dataclass(frozen=True)
class Signal:
    """One thing that is measured of every picture.

    values: [N]. bound: the most that their mean may be, or the least (`least`); None where it is only told. It fails
    where the whole interval of the mean lies beyond: of few pictures, a true edit's mean is beyond by chance. by_mean:
    it fails where the mean itself does, as for what an edit claims. marked: bool [N], the pictures that fail by
    themselves. geometric: the mean is that of ratios, exp(mean(log)).
    """

    name: str
    values: Tensor
    marked: Tensor
    bound: float | None = None
    least: bool = False
    geometric: bool = False
    by_mean: bool = False

    @property
    def value(self) -> float:
        values = self.values.cpu().double()  # some devices have no float64
        return float(values.log().mean().exp() if self.geometric else values.mean())

    @cached_property
    def interval(self) -> tuple[float, float] | None:
        """95 % bootstrap interval over pictures; None of a single one."""
        if len(self.values) < 2:
            return None
        values = self.values.cpu().double()
        low, high = bootstrap_mean(values.log() if self.geometric else values)
        return (float(Tensor([low]).exp()), float(Tensor([high]).exp())) if self.geometric else (low, high)

    @property
    def passed(self) -> bool:
        if self.bound is None:
            return True
        low, high = (None if self.by_mean else self.interval) or (self.value, self.value)
        return high >= self.bound if self.least else low <= self.bound

    def __str__(self) -> str:
        """Such as `realism 1.42 above 1.15`."""
        against = "" if self.passed else f" {'below' if self.least else 'above'} {self.bound:g}"
        return f"{self.name.replace('_', ' ')} {self.value:.2f}{against}"


@dataclass(frozen=True)
class AuditReport:
    """The verdict on an edit, and `marks`, those on its pictures: an edit may pass with a few marked pictures.

    held_out: whether anything judged it that the training did not see.
    """

    signals: tuple[Signal, ...]
    held_out: bool

    @property
    def passed(self) -> bool:
        """Of the edit: no mean beyond its bound, and a held-out judge among what measured them."""
        return self.held_out and all(signal.passed for signal in self.signals)

    @property
    def verdict(self) -> str:
        """One line."""
        failed = [self._told(signal) for signal in self.signals if not signal.passed]
        if failed:
            return "audit failed: " + "; ".join(failed + ([] if self.held_out else [NOT_AUDITED]))
        if not self.held_out:
            return f"not audited: {NOT_AUDITED}"
        found = ", ".join(str(signal) for signal in self.signals)
        return f"audit passed on {len(self.signals[0].values)} pictures: {found}"

    @property
    def marks(self) -> list[list[str]]:
        """Of each picture the names of the signals by which it fails on its own."""
        columns = [(signal.name, signal.marked.tolist()) for signal in self.signals]
        return [[name for name, marked in columns if marked[row]] for row in range(len(self.signals[0].values))]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for the file of the edit."""
        told: dict[str, dict[str, Any]] = {}
        for signal in self.signals:
            interval = None if signal.interval is None else list(signal.interval)
            about: dict[str, Any] = {"value": signal.value, "interval": interval, "bound": signal.bound}
            about |= {"bound_is": "least" if signal.least else "most", "passed": signal.passed}
            told[signal.name] = about | {"pictures_marked": int(signal.marked.sum())}
        pictures = len(self.signals[0].values)
        return {"passed": self.passed, "verdict": self.verdict, "held_out": self.held_out, "num": pictures} | {
            "signals": told
        }

    def _told(self, signal: Signal) -> str:
        values = {other.name: other.value for other in self.signals}
        if signal.name != "direction_gap":
            return str(signal)
        trained, held_out = values["trained_direction"], values["held_out_direction"]
        return f"held-out direction {held_out:.2f} where the trained one has {trained:.2f}"
