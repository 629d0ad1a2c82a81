"""When learning reached a quality, and what it had cost by then: the ratio depends on what is counted of encoding."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from benchmarks.fast_edit.rivals import Learning, Looked, Point

SHARE, LOSS = 0.9, 0.02  # of the best accuracy of DiffusionCLIP's full mode, and of what it keeps


class Cost(NamedTuple):
    """In seconds of the process or in passes: without encodings, as if they were cached; with those of the pictures
    that were used so far, the primary figure; with those of all pictures that there were, as DiffusionCLIP does."""

    cached: float
    used: float
    all: float


def cost(spent: float, used: int, num: int, per_encoding: float) -> Cost:
    """spent: with the encodings of `used` of `num` pictures, each of which costs per_encoding."""
    cached = spent - used * per_encoding
    return Cost(cached, spent, cached + num * per_encoding)


def seconds(learning: Learning, point: Point) -> Cost:
    return cost(point.seconds, point.used, learning.num, learning.encoding_seconds)


def passes(learning: Learning, point: Point) -> Cost:
    return cost(point.passes, point.used, learning.num, learning.encoding_passes)


def threshold(learning: Learning) -> Looked:
    """The quality to be reached, by the best look of DiffusionCLIP's full mode."""
    best = max(learning.points, key=lambda point: point.asked + point.kept)
    return Looked(SHARE * best.asked, best.kept - LOSS)


def reached(learning: Learning, wanted: Looked) -> Point | None:
    """The first look at which both shares are as high; None where there is none."""
    return next((p for p in learning.points if p.asked >= wanted.asked and p.kept >= wanted.kept), None)


def learning_of(row: Mapping[str, Any]) -> Learning | None:
    """As a line of results holds it."""
    told = row["learning"]
    return None if told is None else Learning(**{**told, "points": [Point(*values) for values in told["points"]]})
