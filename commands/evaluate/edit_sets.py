"""Edits to measure editors on: folders of PIE-Bench, shards with true edits, shards with one concept in many styles."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from commands.packaged_places import located
from datamodules import ImageTextDataModule
from datamodules.image_options import Splits
from datamodules.shard_sources import source_index
from fewstep.backbones import LatentDiffusion
from fewstep.editors.edits import Edits, chosen, true_mask
from fewstep.editors.pie_bench import is_pie_bench, read_pie_bench
from fewstep.editors.style_pairs import style_pairs
from fewstep.metrics.structure import OFFICIAL
from fewstep.pixels import to_uint8

STYLES, AVATARS = ["concept", "style"], ["edited_caption"]
PHOTOS = ("ViT-L-14-quickgelu", "openai", OFFICIAL)  # CLIP and its weights, network of the structure distance
DRAWINGS = "mobilenet"


class Kind(NamedTuple):
    """Of a set of edits. scorer: the CLIP that knows these pictures, None for one of photographs; its words stand in
    `wording` of the metadata."""

    name: str
    scorer: str | None = None
    wording: str | None = None


def kind_of(place: str) -> Kind:
    """ValueError in one line for a folder that is neither of PIE-Bench nor of shards."""
    if is_pie_bench(Path(place)):
        return Kind("pie_bench")
    if Path(place).is_dir() and not any(Path(place).glob("*.tar")):
        raise ValueError(f"{place} has neither the mapping_file.json of PIE-Bench nor shards of pictures")
    told = source_index(place) or {}
    if told.get("name") == "emoji":
        return Kind("styles", "assets/clip_emoji_scorer", "scoring_captions")
    if told.get("name") == "avatars" and (told.get("notes") or {}).get("persons", 1) == 1:
        return Kind("true_edits", "assets/clip_avatars_scorer", "edited_scoring_captions")
    return Kind("true_edits")


def networks(
    kind: Kind, clip: str | None, pretrained: str | None, structure: str | None
) -> tuple[str, str | None, str]:
    """(CLIP, its weights, network of the structure distance) where the command line says nothing else."""
    if clip is None and kind.scorer is not None:
        folder = located(kind.scorer)
        if not Path(folder).is_dir():
            raise ValueError(f"{kind.scorer} is not here; run in a clone of the source code, or give --clip")
        return f"local-dir:{folder}", None, structure or DRAWINGS
    model = clip or PHOTOS[0]
    weights = None if model.startswith(("local-dir:", "hf-hub:")) else pretrained or PHOTOS[1]
    return model, weights, structure or (DRAWINGS if kind.scorer else PHOTOS[2])


def read_edits(
    place: str, kind: Kind, size: tuple[int, int], split: str, scorers_words: bool, num: int | None = None
) -> Edits:
    """The first `num` edits, or all, at this (height, width).

    scorers_words: the target in the words of the kind's own scorer.
    """
    if kind.name == "pie_bench":
        return read_pie_bench(Path(place), size, num)
    edits = _of_shards(place, kind, size, split, scorers_words)
    return edits[range(min(num or len(edits), len(edits)))]


def _of_shards(place: str, kind: Kind, size: tuple[int, int], split: str, scorers_words: bool) -> Edits:
    wording = kind.wording if scorers_words else None
    if kind.name == "styles":
        return _of_styles(_columns(place, size, split, [*STYLES, *([wording] if wording else [])]), wording)
    columns = _columns(place, size, split, [*AVATARS, *([wording] if wording else [])], ["edited"])
    target = [str(text) for text in columns["edited_caption"]]
    words = target if wording is None else [texts[0] for texts in columns[wording]]
    rows = len(target)
    image, mask, edited = _stored(columns["image"], columns["edited"])
    return Edits(image, mask, columns["caption"], target, columns["key"], words, [None] * rows, edited)


def _of_styles(columns: dict[str, Any], wording: str | None) -> Edits:
    pairs = style_pairs(columns["concept"], columns["style"])
    if not pairs:
        raise ValueError("no concept is drawn in two styles; take another --split")
    before, after = map(list, zip(*pairs, strict=True))
    image, mask, edited = _stored(columns["image"][before], columns["image"][after])
    source, target = ([columns["caption"][row] for row in rows] for rows in (before, after))
    words = target if wording is None else [columns[wording][row][0] for row in after]
    keys = [f"{columns['key'][row]} as {columns['style'][other]}" for row, other in pairs]
    return Edits(image, mask, source, target, keys, words, [None] * len(keys), edited)


def _stored(image: Tensor, edited: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures, masks and true edits as Edits holds them."""
    return to_uint8(image), true_mask(image, edited).to(torch.uint8), to_uint8(edited)


def _columns(
    place: str, size: tuple[int, int], split: str, metadata: list[str], images: list[str] | None = None
) -> dict[str, Any]:
    """image and `images` [N, 3, H, W] in [-1, 1], caption, key and metadata as lists, in the order of the shards."""
    data = ImageTextDataModule(
        place, size, eval_batch_size=64, images=images, metadata=metadata, splits=Splits(test=split), num_workers=0
    )
    data.setup("test")
    pictures = ["image", *(images or [])]
    columns: dict[str, list[Any]] = defaultdict(list)
    for batch in data.test_dataloader():
        counted = batch["weight"] > 0
        batch = data.on_after_batch_transfer(batch, 0)
        for name in pictures:
            columns[name].append(batch[name][counted])
        for name in ("caption", "key", *metadata):
            columns[name] += [value for value, kept in zip(batch[name], counted.tolist(), strict=True) if kept]
    return dict(columns) | {name: torch.cat(columns[name]) for name in pictures}


def readable(edits: Edits, models: Sequence[LatentDiffusion]) -> tuple[Edits, int]:
    """The edits whose prompts all the models read whole, and how many are left out for that.

    ValueError in one line for fewer than 2.
    """
    rows = list(range(len(edits)))
    for model in models:
        lengths = [_tokens(model, texts) for texts in (edits.source, edits.target)]
        rows = [row for row in rows if max(lengths[0][row], lengths[1][row]) <= model.prompts.length]
    return chosen(edits, rows), len(edits) - len(rows)


def _tokens(model: LatentDiffusion, texts: list[str]) -> list[int]:
    return [len(ids) for ids in model.prompts.tokenizer(texts).input_ids]
