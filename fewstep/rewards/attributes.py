"""Asked attributes against those that a reader finds in pictures: which are right, and how probable they are.

`wanted`: of every picture {attribute: value}, what is asked of it and nothing else; of pictures that show several
persons beside each other a list of these from left to right, and every person is read in its own part of the width.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fewstep.rewards.attribute_reader import AttributeReader, Values

Wanted = Mapping[str, str] | Sequence[Mapping[str, str]]


class Judged(NamedTuple):
    """Of B pictures, P persons in each and A attributes; False and 0 where nothing is asked."""

    asked: Tensor  # bool [B, P, A]
    right: Tensor  # bool [B, P, A]
    log_p: Tensor  # float32 [B, P, A], of the value that is asked

    @property
    def share_right(self) -> Tensor:
        """[B]"""
        return self.right.sum((1, 2)) / self.asked.sum((1, 2)).clamp(min=1)

    @property
    def all_right(self) -> Tensor:
        """bool [B]"""
        return (self.right == self.asked).all(2).all(1)

    @property
    def mean_log_p(self) -> Tensor:
        """[B], over what is asked."""
        return self.log_p.sum((1, 2)) / self.asked.sum((1, 2)).clamp(min=1)


def judge(reader: AttributeReader, images: Tensor, wanted: Sequence[Wanted]) -> Judged:
    """What the reader finds in images [B, 3, H, W] in [-1, 1] against what is wanted of each."""
    persons = listed(wanted)
    labels = labels_of([person for several in persons for person in several], reader.values, images.device)
    found = reader(tiles(images, len(persons[0])))
    asked, right, log_p = [], [], []
    for name, log_probs in found.items():
        told = labels[name] >= 0
        asked.append(told)
        right.append(told & (log_probs.argmax(1) == labels[name]))
        log_p.append(torch.where(told, log_probs.gather(1, labels[name].clamp(min=0)[:, None])[:, 0], 0.0))
    shape = (len(persons), len(persons[0]), len(found))
    return Judged(*(torch.stack(columns, 1).view(shape) for columns in (asked, right, log_p)))


def certainty(reader: AttributeReader, images: Tensor, hides: Mapping[str, Sequence[str]] | None = None) -> Tensor:
    """Log-probability [B] of the most probable reading of images [B, 3, H, W] in [-1, 1]; 0 is quite sure.

    hides: {attribute: others}, which do not count where the first is read as another value than "none".
    """
    found = reader(images)
    most = {name: log_probs.max(1) for name, log_probs in found.items()}
    counts = {name: torch.ones_like(best.values) for name, best in most.items()}
    for name, others in (hides or {}).items():
        absent = most[name].indices == list(reader.values[name]).index("none")
        for other in others:
            counts[other] = counts[other] * absent
    return torch.stack([counts[name] * best.values for name, best in most.items()]).sum(0)


def listed(wanted: Sequence[Wanted]) -> list[list[Mapping[str, str]]]:
    """The persons of every picture; ValueError in one line unless all pictures show equally many."""
    if not wanted:
        raise ValueError("no attributes are given: at least one picture is needed")
    persons: list[list[Mapping[str, str]]] = []
    for given in wanted:
        several = [given] if isinstance(given, Mapping) else given
        if not isinstance(several, list | tuple) or not several or not all(isinstance(p, Mapping) for p in several):
            raise ValueError(f"attributes {str(given)[:80]}: give {{attribute: value}}, or a list of these for persons")
        persons.append(list(several))
        if len(several) != len(persons[0]):
            raise ValueError(
                f"attributes of {len(persons[0])} and of {len(several)} persons: give equally many of each"
            )
    return persons


def tiles(images: Tensor, persons: int) -> Tensor:
    """[B, 3, H, W] -> [B P, 3, H, W / P], the parts of a picture from left to right."""
    if images.shape[-1] % persons:
        raise ValueError(f"pictures of {images.shape[-1]} pixels width cannot be shared by {persons} persons")
    return images.unflatten(-1, (persons, -1)).movedim(-2, 1).flatten(0, 1)


def labels_of(
    attributes: Sequence[Mapping[str, Any]], values: Values, device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """{attribute: int64 [N], the number of its value}, -1 where nothing is said. ValueError for a value it has not."""
    numbers = {name: {value: number for number, value in enumerate(several)} for name, several in values.items()}
    labels: dict[str, list[int]] = {name: [] for name in values}
    for person in attributes:
        if unknown := [name for name in person if name not in numbers]:
            raise ValueError(f"attribute {unknown[0]!r} is none of those that are read: {', '.join(numbers)}")
        for name, number in numbers.items():
            value = person.get(name)
            if value is not None and not isinstance(value, str):
                kind = type(value).__name__
                raise ValueError(
                    f"attribute {name}={str(value)[:40]} is a {kind}; write text, such as {next(iter(number))!r}"
                )
            if value is not None and value not in number:
                raise ValueError(f"attribute {name}={value[:40]!r}: known values are {', '.join(number)}")
            labels[name].append(-1 if value is None else number[value])
    return {name: torch.tensor(column, dtype=torch.int64, device=device) for name, column in labels.items()}


class AttributeReward(nn.Module):
    """A reward by attributes: (images [B, 3, H, W] in [-1, 1], wanted) -> mean log-probability of what is asked, [B].

    reader: such as `load_attribute_reader` returns.
    """

    def __init__(self, reader: AttributeReader) -> None:
        super().__init__()
        self.reader = reader

    def forward(self, images: Tensor, wanted: Sequence[Wanted]) -> Tensor:
        return judge(self.reader, images, wanted).mean_log_p


class AllRightReward(AttributeReward):
    """1 where everything that is asked is read so, else 0: [B]."""

    def forward(self, images: Tensor, wanted: Sequence[Wanted]) -> Tensor:
        return judge(self.reader, images, wanted).all_right.float()


class ProbabilityReward(AttributeReward):
    """The probability that everything that is asked is there, [B], by a reader whose attributes err independently.

    Its mean over pictures is the share of them that is right, which is what a budget of passes shall raise; a mean
    log-probability is raised most where a picture is worst, right or not.
    """

    def forward(self, images: Tensor, wanted: Sequence[Wanted]) -> Tensor:
        return judge(self.reader, images, wanted).log_p.sum((1, 2)).exp()
