"""Edits to be made: pictures with their captions before and after, and where they may change."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from fewstep.backbones import LatentDiffusion

Words = tuple[str, str]  # of the source and of the target
UNTOUCHED = 2 / 255  # of [-1, 1], a grey level: a pixel whose true edit differs by no more is background


@dataclass(frozen=True)
class Edits:
    """image [N, 3, H, W]; mask [N, 1, H, W], 1 where the edit may change it, else 0; the rest lists of N.

    Pictures and masks are uint8, which a whole benchmark fits into; `to` makes them float, pictures in [-1, 1], as
    editors want them.

    source, target: the captions. key: of each picture, all different. wording: the target in the words of the network
    that scores it. blend: words that the edit is about, None where nobody says. edited: the true edit, like image.
    """

    image: Tensor
    mask: Tensor
    source: list[str]
    target: list[str]
    key: list[str]
    wording: list[str]
    blend: list[Words | None]
    edited: Tensor | None = None

    def __post_init__(self) -> None:
        if len(self.image) != len(self) or self.mask.shape != (len(self), 1, *self.image.shape[-2:]):
            told = f"{len(self)} edits, pictures {list(self.image.shape)}, masks {list(self.mask.shape)}"
            raise ValueError(f"{told}: each edit needs a picture and a mask of its size")
        if twice := [key for key in dict.fromkeys(self.key) if self.key.count(key) > 1]:
            raise ValueError(f"the key {twice[0]!r} belongs to several edits; give each its own")

    def __len__(self) -> int:
        return len(self.key)

    def __getitem__(self, rows: Sequence[int]) -> "Edits":
        columns: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        for name, column in columns.items():
            if column is not None:
                columns[name] = column[list(rows)] if isinstance(column, Tensor) else [column[row] for row in rows]
        return Edits(**columns)

    def to(self, device: torch.device | str) -> "Edits":
        edited = None if self.edited is None else _floating(self.edited.to(device))
        return replace(self, image=_floating(self.image.to(device)), mask=self.mask.to(device).float(), edited=edited)


def _floating(images: Tensor) -> Tensor:
    return images if images.is_floating_point() else images.float() / 127.5 - 1


Edited = Callable[[float, float], Tensor]


class Editor(Protocol):
    """See the head of this package."""

    @property
    def model(self) -> LatentDiffusion: ...

    def check(self, w: float, tau: float) -> None: ...

    def __call__(self, edits: Edits, seed: int = 0) -> Edited: ...


def true_mask(image: Tensor, edited: Tensor) -> Tensor:
    """[N, 1, H, W], 1 where a true edit differs from its picture by more than a grey level in some colour."""
    return ((edited - image).abs().amax(1, keepdim=True) > UNTOUCHED).float()


def chosen(edits: Edits, rows: Sequence[int]) -> Edits:
    """These rows. ValueError in one line for fewer than 2, which have no interval."""
    if len(rows) < 2:
        raise ValueError(f"too few edits: {len(rows)} to measure, and intervals need 2 or more")
    return edits[rows]
