"""The captions of a split as prompts, with what they ask for, for `python -m fewstep.collaboration`: a .jsonl file."""

import argparse
import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datamodules.prepare.saying import say
from fewstep.files.names import safe_name, write_new
from fewstep.picture_size import size_argument

if TYPE_CHECKING:
    from PIL import Image


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--data", required=True, metavar="DIR", help="shard folder of captioned pictures")
    command.add_argument("--split", default="val", help="split that they are taken from (default val)")
    command.add_argument("--num", type=int, help="the first so many; all if not given")
    command.add_argument("--attributes", metavar="KEY", help="what is asked, by its name in the metadata: attributes")
    command.add_argument(
        "--caption", metavar="KEY", help="prompts of the metadata in place of captions: edited_caption"
    )
    told = "the pictures, too, beside FILE in its name's folder, for edits; the edge of a square or HEIGHTxWIDTH"
    command.add_argument("--images", metavar="SIZE", type=size_argument, help=told)
    command.add_argument(
        "--out", default="prompts.jsonl", metavar="FILE", help="default %(default)s; NAME-2 where taken"
    )


def run(options: argparse.Namespace) -> None:
    from fewstep.files.pictures import as_png

    out, rows = Path(options.out), []
    folder, staging = out.with_suffix(""), out.with_name(f"{out.stem}.partial")
    if options.images is not None:
        for place in (out, folder):
            if place.exists():
                raise ValueError(f"{place} exists, and pictures go beside {out.name}; give another --out")
        shutil.rmtree(staging, ignore_errors=True)
    for row, picture in prompts(options):
        if picture is not None:
            written = write_new(staging / f"{safe_name(str(row['key']))}.png", as_png(picture))
            row["image"] = f"{folder.name}/{written.name}"
        rows.append(row)
    if not rows:
        raise ValueError(f"--num {options.num}: take at least one")
    if options.images is not None:
        staging.rename(folder)
    written = write_new(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
    say(f"{written}: {len(rows)} prompts of {options.data}, {options.split}")


def prompts(options: argparse.Namespace) -> Iterator[tuple[dict[str, object], "Image.Image | None"]]:
    """{"prompt", "key"} and, if asked for, "attributes" and the picture of every sample, in the order of the shards."""
    from PIL import Image

    from datamodules.image_options import Splits
    from datamodules.image_text import ImageTextDataModule

    fields = [name for name in (options.attributes, options.caption) if name]
    size = options.images if options.images is not None else 8  # of pictures that nobody sees
    splits = Splits(test=options.split, num_test=None)
    module = ImageTextDataModule(options.data, size, splits=splits, num_workers=0, metadata=fields)
    module.prepare_data()
    module.setup("test")
    for number, (batch, place) in enumerate(rows_of(module.test_dataloader())):
        if number == (options.num if options.num is not None else -1):
            return
        told = {name: asked(batch[name][place], batch["key"][place], name) for name in fields}
        row: dict[str, object] = {
            "prompt": told.get(options.caption, batch["caption"][place]),
            "key": batch["key"][place],
        }
        if options.attributes:
            row["attributes"] = told[options.attributes]
        yield row, None if options.images is None else Image.fromarray(batch["image"][place].permute(1, 2, 0).numpy())


def rows_of(batches: Iterable[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], int]]:
    """Every sample that counts, as its batch and its place there."""
    return ((batch, place) for batch in batches for place in range(len(batch["key"])) if batch["weight"][place])


def asked(value: object, key: str, name: str) -> object:
    if not value:
        raise ValueError(f"sample {key} has no {name} in its metadata; leave that option out")
    return value
