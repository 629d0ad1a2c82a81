"""The pictures that claims are measured on: held-out drawings, and for each the same concept in another style."""

import random
from collections import defaultdict
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from datamodules import ImageTextDataModule
from datamodules.image_options import Splits
from fewstep.editors.style_pairs import style_pairs as pairs_of
from fewstep.picture_size import Size

FIELDS = ["scoring_captions", "concept", "style"]


@dataclass(frozen=True)
class Pictures:
    """image [N, 3, H, W] in [-1, 1]; the rest lists of N str. caption: "a flat drawing of a rainbow".

    scoring_caption: the words of the held-out scorer for the same, "rainbow in plain colours".
    """

    image: Tensor
    caption: list[str]
    scoring_caption: list[str]
    key: list[str]
    concept: list[str]
    style: list[str]

    def __len__(self) -> int:
        return len(self.key)

    def __getitem__(self, rows: list[int]) -> "Pictures":
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        lists = {name: [column[row] for row in rows] for name, column in columns.items() if name != "image"}
        return Pictures(self.image[rows], **lists)


def read_pictures(path: str, split: str, tokenizer: Any = None, length: int = 0, image_size: Size = 64) -> Pictures:
    """All drawings of a split whose caption the tokenizer fits into `length` tokens."""
    data = ImageTextDataModule(
        path, image_size, eval_batch_size=128, metadata=FIELDS, splits=Splits(test=split), num_workers=0
    )
    columns: dict[str, list] = defaultdict(list)
    for batch in data.test_dataloader():
        batch = data.on_after_batch_transfer(batch, 0)
        keep = (batch["weight"] > 0).tolist()
        columns["image"].append(batch["image"][batch["weight"] > 0])
        for name in ("caption", "key", *FIELDS):
            columns[name] += [value for value, kept in zip(batch[name], keep, strict=True) if kept]
    scoring = [captions[0] for captions in columns.pop("scoring_captions")]
    pictures = Pictures(torch.cat(columns.pop("image")), scoring_caption=scoring, **columns)
    if tokenizer is None:
        return pictures
    sizes = [len(ids) for ids in tokenizer(pictures.caption).input_ids]
    return pictures[[row for row, size in enumerate(sizes) if size <= length]]


def some_of(pictures: Pictures, num: int, seed: int = 0) -> Pictures:
    """num of them, drawn by the seed."""
    if not 1 < num <= len(pictures):
        raise ValueError(f"cannot draw {num} of {len(pictures)} pictures; give --num from 2 to {len(pictures)}")
    return pictures[random.Random(seed).sample(range(len(pictures)), num)]


def style_pairs(every: Pictures, num: int, seed: int = 0) -> tuple[Pictures, Pictures]:
    """(sources, targets): num drawings and the same concepts in another style; all pairs of styles equally often."""
    pairs = pairs_of(every.concept, every.style, seed)
    if not 1 < num <= len(pairs):
        raise ValueError(f"cannot draw {num} of {len(pairs)} pairs of styles; give --num-edits from 2 to {len(pairs)}")
    return every[[source for source, _ in pairs[:num]]], every[[target for _, target in pairs[:num]]]
