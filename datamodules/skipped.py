"""The account of samples that were left out: counts by kind, warnings at a limited rate, and when enough is enough."""

import logging
import time
from collections import Counter

LOG = logging.getLogger("fewstep.data")
IN_FULL = 5  # faults of each kind that are named one by one
SECONDS = 60.0  # afterwards at most one line in this time
LOOK_AT = 200  # samples to have seen before the share counts


class Skipped:
    """Counts what the workers left out.

    Args:
        max_share: ValueError once more than this share of the samples is bad.
        strict: ValueError at the first bad sample.
    """

    def __init__(self, max_share: float = 0.1, strict: bool = False):
        if not 0 <= max_share <= 1:
            raise ValueError(f"max_skipped={max_share}: give a share of the samples, from 0 to 1")
        self.max_share, self.strict = max_share, strict
        self.counts: Counter[str] = Counter()
        self.seen, self.quiet_until = 0, 0.0

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def update(self, num_samples: int, faults: list[tuple[str, str, str]]) -> None:
        """Account for a batch of `num_samples` and its faults (kind, shard:key, detail)."""
        self.seen += num_samples
        for kind, where, detail in faults:
            self.counts[kind] += 1
            reason = f"{kind}{f' ({detail})' if detail else ''}"
            if self.strict:
                raise ValueError(f"{where}: {reason}; repair the sample, or allow a share with strict=false")
            self._say(kind, f"left out {where}: {reason}")
        if self.seen >= LOOK_AT and self.total > self.max_share * self.seen:
            raise ValueError(
                f"{self.total} of the first {self.seen} samples are unusable ({self}), more than max_skipped="
                f"{self.max_share:g}; run python -m datamodules.prepare check on the folder, or raise max_skipped"
            )

    def damaged(self, faults: list[str]) -> None:
        """Account for shards that could be read in part only; `faults` are lines."""
        for line in faults:
            self.counts["damaged_tar"] += 1
            if self.strict:
                raise ValueError(f"{line}; copy the shard again, or read what is left of it with strict=false")
            self._say("damaged_tar", f"{line}; the other samples are used")

    def __str__(self) -> str:
        return ", ".join(f"{kind} {count}" for kind, count in self.counts.most_common())

    def _say(self, kind: str, line: str) -> None:
        if self.counts[kind] <= IN_FULL:
            LOG.warning(line)
        elif time.monotonic() >= self.quiet_until:
            self.quiet_until = time.monotonic() + SECONDS
            LOG.warning("%s; so far %d faults in %d samples: %s", line, self.total, self.seen, self)
