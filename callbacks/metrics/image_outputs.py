"""What an image metric reads of a batch: the rows that count, checked once and rounded to what would be saved."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewstep.pixels import check_images_and_prompts, to_uint8


class Counted(NamedTuple):
    """The rows of one batch whose weight is not 0: padding and unreadable samples are left out."""

    rows: Tensor  # bool [B]
    keys: list[str]
    captions: list[str]


def counted(batch: dict[str, Any]) -> Counted:
    """ValueError in one line for a batch without `key` and `weight`; captions are empty where there are none."""
    if not isinstance(batch, dict) or not {"key", "weight"} <= batch.keys():
        raise ValueError("image metrics need evaluation batches with `key` (list of str) and `weight` [B]")
    rows = batch["weight"] > 0
    kept = rows.tolist()
    captions = batch.get("caption")
    if captions is not None and len(captions) != len(kept):
        raise ValueError(f"the batch has {len(kept)} images and {len(captions)} captions; one for each is needed")
    return Counted(
        rows,
        [key for key, keep in zip(batch["key"], kept, strict=True) if keep],
        [caption for caption, keep in zip(captions or [""] * len(kept), kept, strict=True) if keep],
    )


def chosen(batch: dict[str, Any], field: str, counted: Counted, metric: str) -> list[Any]:
    """What the batch has in a list for the rows that count; ValueError in one line where it or a sample has none."""
    if field not in batch:
        hint = "" if field == "caption" else ": list it in --data.metadata"
        raise ValueError(f"{metric} needs `{field}` in the batch{hint}")
    values = [batch[field][row] for row in counted.rows.nonzero()[:, 0].tolist()]
    if lacking := [key for key, value in zip(counted.keys, values, strict=True) if value is None]:
        raise ValueError(f"{metric} needs `{field}` of every sample, and {lacking[0]} has none in its json")
    return values


def generated_images(outputs: Any, counted: Counted, field: str = "image") -> Tensor:
    """uint8 [n, 3, H, W] of the rows that count. ValueError in one line if they are missing, misshapen or not in range.

    float [B, 3, H, W] in [-1, 1] -> the nearest of 256 grey levels, outside autocast, as saving them would.
    """
    if not isinstance(outputs, dict) or field not in outputs:
        raise ValueError(f"image metrics need a validation_step and test_step that return a dict with `{field}`")
    return to_pictures(outputs[field], counted.rows, f"`{field}` of the outputs")


def real_images(batch: dict[str, Any], counted: Counted, field: str = "image") -> Tensor:
    """uint8 [n, 3, H, W] of the rows that count, from the batch's uint8 images or their float form in [-1, 1]."""
    if field not in batch:
        raise ValueError(f"the batch has no `{field}` to compare with; its fields are {', '.join(map(str, batch))}")
    return to_pictures(batch[field], counted.rows, f"`{field}` of the batch")


def to_pictures(images: Tensor, rows: Tensor, what: str) -> Tensor:
    """images [B, 3, H, W] -> uint8 of the chosen rows [B] bool; `what` names them in an error."""
    if images.ndim != 4 or images.shape[1] != 3 or len(images) != len(rows):
        raise ValueError(f"{what} must be [{len(rows)}, 3, H, W], got shape {list(images.shape)}")
    images = images.detach()[rows.to(images.device)]
    if images.dtype == torch.uint8 or not len(images):
        return images if images.dtype == torch.uint8 else images.to(torch.uint8)
    try:
        check_images_and_prompts(images, [""] * len(images))
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None
    return to_uint8(images)
