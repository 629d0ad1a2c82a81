"""Which members of a tar are one sample: WebDataset's naming, without its silent mixing of samples that share a key."""

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field

from datamodules.tar_members import Member

LONGEST_KEY = 512  # bytes; in an array of keys every one takes as much room as the longest
MOST_FIELDS = 64  # different field names; each takes 16 bytes of every sample
MOST_FAULTS = 100  # lines kept for one shard
TOO_MANY_FIELDS = f"at most {MOST_FIELDS} are read: fields begin at the first dot of a name, so keys cannot hold dots"


@dataclass
class Samples:
    """The samples of one shard: keys as first spelt, the number of each composed key, {row: (offset, size)} of fields.

    Names that differ in their normal form only are one name: `e` with an accent, as Linux and as macOS write it.
    """

    keys: list[bytes] = field(default_factory=list)
    rows: dict[bytes, int] = field(default_factory=dict)
    fields: dict[str, dict[int, tuple[int, int]]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def fault(self, line: str) -> None:
        if len(self.faults) < MOST_FAULTS:
            self.faults.append(line)
        elif len(self.faults) == MOST_FAULTS:
            self.faults.append("more faults follow, which are not listed")

    def add(self, key: bytes, run: dict[str, Member]) -> None:
        """Add neighbours of one key; if they repeat a field of an earlier sample they are another one, and dropped."""
        known = composed(key)
        row = self.rows.get(known, -1)
        if row >= 0 and any(row in self.fields.get(name, ()) for name in run):
            first = next(iter(run.values())).offset
            self.fault(f"key {key.decode()!r} occurs again at byte {first}; the first sample is kept")
            return
        row = self.rows.setdefault(known, len(self.rows))
        if row == len(self.keys):
            self.keys.append(key)
        for name, (_, offset, size) in run.items():
            if name in self.fields or len(self.fields) < MOST_FIELDS:
                self.fields.setdefault(name, {})[row] = offset, size
            else:
                self.fault(f"field {name[:80]!r} at byte {offset} is left out; {TOO_MANY_FIELDS}")


def group_samples(members: list[Member]) -> Samples:
    """All samples of a shard, in the order of their first members."""
    samples = Samples()
    for key, run in runs(members, samples):
        samples.add(key, run)
    return samples


def runs(members: list[Member], samples: Samples) -> Iterator[tuple[bytes, dict[str, Member]]]:
    """Key and fields of each stretch of neighbouring members with one key."""
    current, run = b"", {}
    for member in members:
        folder, slash, file = member.name.rpartition("/")
        stem, _, name = file.partition(".")
        if not stem or not name:
            continue  # not a field of a sample for WebDataset either
        key, name = (folder + slash + stem).encode(), name.lower()
        if len(key) > LONGEST_KEY:
            samples.fault(
                f"the file at byte {member.offset} is left out, its key has {len(key)} bytes; at most {LONGEST_KEY}"
            )
            continue
        if key != current and (key.isascii() or composed(key) != composed(current)):
            if run:
                yield current, run
            current, run = key, {}
        if name in run:
            samples.fault(
                f"field {name[:80]!r} of {key.decode()!r} occurs again at byte {member.offset}; the first is kept"
            )
        else:
            run[name] = member
    if run:
        yield current, run


def composed(key: bytes) -> bytes:
    """The key in the composed normal form."""
    return key if key.isascii() else unicodedata.normalize("NFC", key.decode()).encode()
