"""A reader of attributes as the judge of an edit: is there what was asked for, and is everything else as it was?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fewstep.rewards.attribute_reader import AttributeReader
from fewstep.rewards.attributes import labels_of

BATCH = 64
Found = Mapping[str, Tensor]  # {attribute: int64 [N], the number of its most probable value}


@dataclass(frozen=True)
class Judge:
    """A reader that neither trained nor stopped the edit; asked: {attribute: value} that the edit shall bring.

    hides: {attribute: others}, which do not count where the first is read as another value than "none". ValueError in
    one line for names that the reader does not know.
    """

    reader: AttributeReader
    asked: Mapping[str, str]
    hides: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        values = self.reader.values
        if not self.asked:
            raise ValueError("the judge is asked nothing: give {attribute: value}, what the edit shall bring")
        labels_of([self.asked], values)
        for name, others in self.hides.items():
            if unknown := [word for word in (name, *others) if word not in values]:
                raise ValueError(f"hides names {unknown[0]!r}; the reader knows {', '.join(values)}")
            if "none" not in values[name]:
                raise ValueError(f"hides.{name}: it is never 'none', its values are {', '.join(values[name])}")

    def read(self, pictures: Tensor) -> Found:
        """Of pictures [N, 3, H, W] in [-1, 1]."""
        parts = [self.reader(part) for part in pictures.split(BATCH)]
        return {name: torch.cat([part[name].argmax(1) for part in parts]) for name in self.reader.values}

    def has_asked(self, found: Found) -> Tensor:
        """bool [N]: all that is asked is there."""
        values = self.reader.values
        right = [found[name] == list(values[name]).index(value) for name, value in self.asked.items()]
        return torch.stack(right).all(0)

    def asked_visible(self, found: Found) -> Tensor:
        """bool [N]: nothing hides what is asked."""
        visible = self._visible(found)
        return torch.stack([visible[name] for name in self.asked]).all(0)

    def kept(self, before: Found, after: Found) -> Tensor:
        """Share [N] of the other attributes, visible before and after, that are read alike; 1 where there are none."""
        seen, shown = self._visible(before), self._visible(after)
        others = [name for name in before if name not in self.asked]
        if not others:
            return torch.ones(len(next(iter(before.values()))))
        counted = torch.stack([seen[name] & shown[name] for name in others])
        alike = torch.stack([before[name] == after[name] for name in others]) & counted
        return torch.where(counted.any(0), alike.sum(0) / counted.sum(0).clamp(min=1), 1.0)

    def _visible(self, found: Found) -> dict[str, Tensor]:
        visible = {name: torch.ones_like(read, dtype=torch.bool) for name, read in found.items()}
        for name, others in self.hides.items():
            absent = found[name] == list(self.reader.values[name]).index("none")
            for other in others:
                visible[other] &= absent
        return visible
