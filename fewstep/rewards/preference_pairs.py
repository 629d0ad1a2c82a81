"""Pairs that need no people: a picture with its caption is better than the same with something wrong by construction.

Bradley and Terry 1952; Xu et al. 2023 (ImageReward), Eq. 1: the loss of a pair.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fewstep.augmentation import Augmentation
from fewstep.rewards.attributes import listed
from fewstep.rewards.preference import PreferenceReward
from fewstep.rng import PerSampleRng

WORSE = {  # kind of pair -> the worse picture and caption
    "caption": ("image", "edited_caption"),  # says one attribute wrong
    "edited": ("edited", "caption"),  # shows one attribute wrong
    "swapped": ("swapped", "caption"),  # shows the persons in other places
    "degraded": ("degraded", "caption"),
    "other": ("other", "caption"),  # belongs to another sample
}


class End(NamedTuple):
    """One of the two ends of B edits."""

    image: Tensor  # [B, 3, H, W] in [-1, 1]
    caption: list[str]  # that settles every attribute
    attributes: list[Any]  # of every sample {attribute: value}, of several persons a list of these from left to right


class Pairs(NamedTuple):
    """What the rewards of B pairs of every kind are computed from."""

    images: dict[str, Tensor]  # [B, 3, H, W] in [-1, 1] each
    captions: dict[str, list[str]]
    says: dict[str, Tensor]  # kind of pair: bool [B], whether the second is worse indeed


def mixed(first: End, second: End, exchanged: Tensor) -> tuple[End, End]:
    """The two ends, exchanged where that is true [B]: what edits have in common then tells nothing."""
    ends = []
    for one, other in ((first, second), (second, first)):
        image = torch.where(exchanged[:, None, None, None], other.image, one.image)
        rest = [
            [b if swap else a for a, b, swap in zip(mine, theirs, exchanged.tolist(), strict=True)]
            for mine, theirs in ((one.caption, other.caption), (one.attributes, other.attributes))
        ]
        ends.append(End(image, *rest))
    return ends[0], ends[1]


def swapped_persons(images: Tensor, persons: int) -> Tensor:
    """Every person of images [B, 3, H, W] one place further to the right, the last one first."""
    if images.shape[-1] % persons:
        raise ValueError(f"pictures of {images.shape[-1]} pixels width cannot be shared by {persons} persons")
    return images.roll(images.shape[-1] // persons, -1)


def constructed(
    end: End, edited: End, augmentation: Augmentation, degradation: Augmentation, rng: PerSampleRng | None = None
) -> Pairs:
    """All kinds of pairs of B ends against their edited ones. ValueError in one line as `listed`.

    Pictures of a pair are moved and blurred alike, with noise of one strength, and persons are exchanged before that:
    only what is wrong tells them apart.
    """
    swapped = swapped_persons(end.image, len(listed(end.attributes)[0]))
    together = augmentation(torch.cat([end.image, edited.image, swapped], 1), rng)
    images = dict(zip(("image", "edited", "swapped"), together.chunk(3, 1), strict=True))
    images["degraded"] = degradation(images["image"], rng)
    captions = {"caption": end.caption, "edited_caption": edited.caption}
    return Pairs(images, captions, says_something(end, edited))


def says_something(end: End, edited: End) -> dict[str, Tensor]:
    """Kind of pair: bool [B], true where the second of the pair is worse by what captions and attributes tell.

    The "other" of a sample is the one before it in the batch. ValueError as `listed`.
    """
    persons = listed(end.attributes)
    told = {
        "caption": [a != b for a, b in zip(end.caption, edited.caption, strict=True)],
        "swapped": [any(person != several[0] for person in several) for several in persons],
        "degraded": [True] * len(persons),
        "other": [a != b for a, b in zip(end.caption, [*end.caption[-1:], *end.caption[:-1]], strict=True)],
    }
    told["edited"] = told["caption"]
    return {kind: torch.tensor(told[kind], device=end.image.device) for kind in WORSE}


def pair_rewards(model: PreferenceReward, pairs: Pairs) -> tuple[Tensor, dict[str, Tensor]]:
    """Rewards [B] of the better, and of the worse of every kind; each picture and caption is read once."""
    blocks = model.encode_images(torch.cat([*pairs.images.values()])).chunk(len(pairs.images))
    tokens = dict(zip(pairs.images, blocks, strict=True))
    tokens["other"] = tokens["image"].roll(1, 0)
    hidden, padding = model.encode_prompts([text for several in pairs.captions.values() for text in several])
    count = len(pairs.captions)
    texts = dict(zip(pairs.captions, zip(hidden.chunk(count), padding.chunk(count), strict=True), strict=True))
    asked = [("image", "caption"), *WORSE.values()]
    states = [torch.cat([texts[caption][part] for _, caption in asked]) for part in (0, 1)]
    better, *worse = model.score(torch.cat([tokens[picture] for picture, _ in asked]), *states).chunk(len(asked))
    return better, dict(zip(WORSE, worse, strict=True))


def bradley_terry_losses(better: Tensor, worse: Tensor) -> Tensor:
    """-log sigmoid(better - worse) of rewards [B]: of the model in which the better one wins with that probability."""
    return F.softplus(worse - better)


def mean_of_kinds(values: Mapping[str, Tensor], says: Mapping[str, Tensor]) -> Tensor:
    """[B]: the mean of every sample over the kinds of pair that say something of it; 0 where none does."""
    kinds: Sequence[str] = list(values)
    counts = torch.stack([says[kind] for kind in kinds]).float()
    return (torch.stack([values[kind] for kind in kinds]) * counts).sum(0) / counts.sum(0).clamp(min=1)
