"""Pictures that come with prompts: those that an edit starts from, and those that a control network reads."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from fewstep.files.pictures import read_picture
from fewstep.picture_size import Size


class Pictures(Protocol):
    """N pictures, of which [places] gives some, [B, 3, H, W] in [-1, 1]: a tensor, or files that are read then."""

    def __len__(self) -> int: ...
    def __getitem__(self, places: list[int], /) -> Tensor: ...


class Given(NamedTuple):
    """With each prompt of a batch."""

    sources: Tensor | None = None  # latents [B, C, h, w] that its drafts start from
    controls: Tensor | None = None  # [B, 3, H, W] in [-1, 1]


NOTHING = Given()


class AllGiven(NamedTuple):
    """With each of all prompts."""

    sources: Tensor | None = None  # latents [N, C, h, w], on the CPU
    controls: Pictures | None = None

    def of(self, places: Sequence[int]) -> Given:
        """The batch of these places."""
        sources, controls = (None if found is None else found[list(places)] for found in self)
        return Given(sources, controls)


@dataclass(frozen=True)
class PictureFiles:
    """Files of any size, cut to the shape of `size` and resized when they are asked for; see `read_picture`."""

    files: Sequence[Path]
    size: Size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, places: list[int], /) -> Tensor:
        return torch.cat([read_picture(self.files[place], self.size) for place in places])
