"""Drawn avatars with their captions, attributes and true edits, as benchmarks read them."""

from collections import defaultdict
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from datamodules import ImageTextDataModule
from datamodules.image_options import Splits
from datamodules.shard_sources import source_index

FIELDS = ["attributes", "edited_caption", "edited_attributes", "changed"]


@dataclass(frozen=True)
class Avatars:
    """image, edited [N, 3, H, W] in [-1, 1]; the rest lists of N.

    attributes: {attribute: value} of what can be seen, of scenes a list of these from left to right; changed: the
    attribute that the true edit changes.
    """

    image: Tensor
    edited: Tensor
    caption: list[str]
    edited_caption: list[str]
    attributes: list[Any]
    edited_attributes: list[Any]
    changed: list[str]
    key: list[str]

    def __len__(self) -> int:
        return len(self.key)

    def __getitem__(self, rows: list[int]) -> "Avatars":
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        return Avatars(
            **{
                name: column[rows] if isinstance(column, Tensor) else [column[row] for row in rows]
                for name, column in columns.items()
            }
        )


def read_avatars(path: str, split: str = "test", num: int | None = None) -> Avatars:
    """The first `num` of a split, or all of it, in the order of the keys."""
    data = ImageTextDataModule(
        path,
        image_size=(source_index(path) or {}).get("image_size", 64),
        eval_batch_size=128,
        images=["edited"],
        metadata=FIELDS,
        splits=Splits(test=split),
        num_workers=0,
    )
    data.setup("test")
    columns: dict[str, list] = defaultdict(list)
    for batch in data.test_dataloader():
        counted = batch["weight"] > 0
        batch = data.on_after_batch_transfer(batch, 0)
        for name in ("image", "edited"):
            columns[name].append(batch[name][counted])
        for name in ("caption", "key", *FIELDS):
            columns[name] += [value for value, kept in zip(batch[name], counted.tolist(), strict=True) if kept]
    pictures = {name: torch.cat(columns.pop(name)) for name in ("image", "edited")}
    found = Avatars(**pictures, **columns)
    return found if num is None or num >= len(found) else found[list(range(num))]
