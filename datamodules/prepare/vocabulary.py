"""Learn a small CLIP vocabulary from the captions of a shard folder."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from datamodules.prepare.saying import say


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--data", required=True, metavar="DIR", help="shard folder, as ImageTextDataModule reads it")
    command.add_argument("--split", default="train", help="split whose captions are read (default train)")
    command.add_argument(
        "--fields",
        nargs="+",
        default=["captions"],
        metavar="KEY",
        help="captions: all captions of a sample, wherever they stand; other names: lists of texts in its json",
    )
    command.add_argument("--size", type=int, default=2048, help="tokens at most (default 2048)")
    command.add_argument("--out", required=True, metavar="FILE", help="file to write, such as bpe.txt.gz")


def run(options: argparse.Namespace) -> int:
    from fewstep.contrastive.vocabulary import write_vocabulary

    if not options.out.endswith(".txt.gz"):
        raise ValueError(f"--out {options.out}: give a name that ends in .txt.gz")
    captions = list(read_captions(options.data, options.split, options.fields))
    Path(options.out).parent.mkdir(parents=True, exist_ok=True)
    tokens = write_vocabulary(captions, options.size, options.out)
    say(f"{options.out}: {tokens} tokens from {len(captions)} captions")
    return 0


def read_captions(source: str, split: str, fields: list[str]) -> Iterator[str]:
    """Every caption of every sample that has any; `fields` as on the command line."""
    import numpy as np

    from datamodules.bad_sample import BadSample
    from datamodules.captions import captions_of
    from datamodules.image_folder import open_images

    index = open_images(source, split)
    for number, path in enumerate(index.paths):
        with open(path, "rb") as shard:
            for row in np.flatnonzero(index.shard == number).tolist():
                text, metadata = (_content(shard, index.span(row, name)) for name in ("txt", "json"))
                try:
                    captions, values = captions_of(text, metadata)
                except BadSample:
                    continue
                for field in fields:
                    entry = captions if field == "captions" else values.get(field)
                    if not isinstance(entry, list) or not all(isinstance(caption, str) for caption in entry):
                        raise ValueError(
                            f"sample {index.key(row)}: no list of texts {field!r} in its json; see --fields"
                        )
                    yield from entry


def _content(shard: BinaryIO, span: tuple[str, int, int] | None) -> bytes | None:
    if span is None:
        return None
    shard.seek(span[1])
    return shard.read(span[2])
