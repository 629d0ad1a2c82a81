"""What `check` found in a set of image shards."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from datamodules.sample_pictures import SeveralPictures


@dataclass
class SplitReport:
    """What one split holds; `shards` and `samples` count what is there, not what the index says."""

    shards: int = 0
    samples: int = 0
    fields: Counter = field(default_factory=Counter)  # samples that have each field
    sizes: Counter = field(default_factory=Counter)  # (width, height) of the pictures
    captions: list[int] = field(default_factory=list)  # characters of the first caption of each sample
    unreadable: Counter = field(default_factory=Counter)  # bad samples by kind
    several: SeveralPictures = field(default_factory=SeveralPictures)


@dataclass
class Report:
    """The account of all splits. `faults` are about files, `unreadable` (kind, shard:key, detail) about samples."""

    splits: dict[str, SplitReport] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    unreadable: list[tuple[str, str, str]] = field(default_factory=list)
    duplicates: list[tuple[str, str]] = field(default_factory=list)  # (first, again), each SPLIT/shard:key
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)  # of the arrays, which one batch must share
    examples: list[tuple[str, np.ndarray]] = field(default_factory=list)  # first caption, uint8 [H, W, 3]

    @property
    def sound(self) -> bool:
        return not self.faults and not self.unreadable
