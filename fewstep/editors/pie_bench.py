"""Folders in the layout of PIE-Bench: `mapping_file.json` and, below `annotation_images`, the pictures that it names.

Ju et al. 2023 (Direct Inversion, arXiv 2310.01506), whose benchmark of 700 edits it is. For each key the file holds
`image_path`, `original_prompt` and `editing_prompt` (square brackets around what changes say nothing to a network),
`editing_instruction`, `editing_type_id`, `blended_word` ("cat dog": of the source and of the target, or "") and `mask`:
first pixel and length of each run that belongs to the edit, [start, length, start, length, ..], rows of the picture
one after another. As in its own evaluation the outermost pixels always count as edited.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from fewstep.editors.edits import Edits, Words
from fewstep.files.pictures import read_whole
from fewstep.files.plain_json import read_json
from fewstep.one_line import one_line
from fewstep.picture_size import largest_part
from fewstep.pixels import to_uint8

MAPPING, PICTURES = "mapping_file.json", "annotation_images"
TEXTS = ("image_path", "original_prompt", "editing_prompt")


def is_pie_bench(folder: Path) -> bool:
    return (folder / MAPPING).is_file()


def read_pie_bench(folder: Path, size: tuple[int, int], num: int | None = None) -> Edits:
    """The first `num` edits, or all, at this (height, width): the largest central part of that shape, resized.

    Masks are on the pixels of the picture's own file and follow it to the nearest pixel. ValueError in one line.
    """
    try:
        entries = read_json(folder / MAPPING)
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {folder / MAPPING}: {one_line(error)}") from None
    if not isinstance(entries, dict) or not entries:
        raise ValueError(f"{folder / MAPPING} must be an object of edits by key, and not empty")
    rows = [_edit(folder, key, entry, size) for key, entry in list(entries.items())[:num]]
    images, masks, sources, targets, blends = map(list, zip(*rows, strict=True))
    keys = list(entries)[: len(rows)]
    return Edits(torch.cat(images), torch.cat(masks), sources, targets, keys, list(targets), blends)


def _edit(folder: Path, key: str, entry: Any, size: tuple[int, int]) -> tuple[Tensor, Tensor, str, str, Words | None]:
    told = f"edit {one_line(key, 40)!r} of {folder / MAPPING}"
    if not isinstance(entry, Mapping) or not all(isinstance(entry.get(name), str) for name in TEXTS):
        raise ValueError(f"{told} needs the texts {', '.join(TEXTS)}")
    place = Path(entry["image_path"])
    if place.is_absolute() or ".." in place.parts:
        raise ValueError(f"{told}: image_path {one_line(str(place), 80)!r} leads out of {PICTURES}")
    image = read_whole(folder / PICTURES / place)
    mask = run_length_mask(entry.get("mask"), (image.shape[-2], image.shape[-1]), told)
    source, target = (entry[name].replace("[", "").replace("]", "").strip() for name in TEXTS[1:])
    words = str(entry.get("blended_word") or "").split()
    blend = (words[0], words[1]) if len(words) == 2 else None
    if tuple(image.shape[-2:]) != size:
        image, mask = (_central(part, size) for part in (image, mask))
        options: dict[str, Any] = {"mode": "bilinear", "antialias": True, "align_corners": False}
        image = interpolate(image, size, **options).clamp(-1, 1)
        mask = interpolate(mask, size, mode="nearest-exact")
    return to_uint8(image), mask.to(torch.uint8), source, target, blend


def run_length_mask(runs: Any, size: tuple[int, int], told: str = "the edit") -> Tensor:
    """[1, 1, H, W] of runs [start, length, ..]; ValueError in one line where they are none, or of a larger picture.

    The last run may reach beyond the end, as some of the benchmark's do.
    """
    height, width = size
    whole = isinstance(runs, Sequence) and not isinstance(runs, str) and len(runs) % 2 == 0
    if not whole or not all(type(number) is int and number >= 0 for number in runs):
        raise ValueError(f"{told}: mask must be [start, length, start, length, ..] in whole numbers")
    flat = torch.zeros(height * width)
    for start, length in zip(runs[::2], runs[1::2], strict=True):
        if start >= len(flat):
            of = f"its picture has {height} x {width} = {len(flat)}"
            raise ValueError(f"{told}: the mask begins a run at pixel {start}, {of}; it is of a picture of other size")
        flat[start : start + length] = 1
    mask = flat.view(1, 1, height, width)
    mask[..., [0, -1], :] = 1
    mask[..., [0, -1]] = 1
    return mask


def _central(picture: Tensor, size: tuple[int, int]) -> Tensor:
    height, width = largest_part(picture.shape[-2], picture.shape[-1], size)
    top, left = (picture.shape[-2] - height) // 2, (picture.shape[-1] - width) // 2
    return picture[..., top : top + height, left : left + width]
