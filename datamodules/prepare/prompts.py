"""The captions of a split as prompts, with what they ask for, for `python -m fewstep.collaboration`: a .jsonl file."""

import argparse
import json
from pathlib import Path

from datamodules.prepare.saying import say
from fewstep.files.names import write_new


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--data", required=True, metavar="DIR", help="shard folder of captioned pictures")
    command.add_argument("--split", default="val", help="split that they are taken from (default val)")
    command.add_argument("--num", type=int, help="the first so many; all if not given")
    command.add_argument("--attributes", metavar="KEY", help="what is asked, by its name in the metadata: attributes")
    command.add_argument(
        "--out", default="prompts.jsonl", metavar="FILE", help="default %(default)s; NAME-2 where taken"
    )


def run(options: argparse.Namespace) -> None:
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in prompts(options)]
    if not lines:
        raise ValueError(f"--num {options.num}: take at least one")
    written = write_new(Path(options.out), "".join(lines).encode())
    say(f"{written}: {len(lines)} prompts of {options.data}, {options.split}")


def prompts(options: argparse.Namespace) -> list[dict[str, object]]:
    """{"prompt", "key"} and, if asked for, "attributes" of every sample, in the order of the shards."""
    from datamodules.image_options import Splits
    from datamodules.image_text import ImageTextDataModule

    fields = [options.attributes] if options.attributes else []
    size = 8  # of pictures that nobody sees
    splits = Splits(test=options.split, num_test=None)
    module = ImageTextDataModule(options.data, size, splits=splits, num_workers=0, metadata=fields)
    module.prepare_data()
    module.setup("test")
    rows: list[dict[str, object]] = []
    for batch in module.test_dataloader():
        for place, (caption, key) in enumerate(zip(batch["caption"], batch["key"], strict=True)):
            if len(rows) == (options.num if options.num is not None else -1):
                return rows
            if not batch["weight"][place]:
                continue
            rows.append({"prompt": caption, "key": key})
            if options.attributes:
                rows[-1]["attributes"] = asked(batch[options.attributes][place], key, options.attributes)
    return rows


def asked(value: object, key: str, name: str) -> object:
    if not value:
        raise ValueError(f"sample {key} has no {name} in its metadata; leave --attributes out")
    return value
