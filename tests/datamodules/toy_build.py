"""Builds an image folder of 60 toys in argv[1], slowly enough to be killed in the middle; prints what it renders."""

import sys
import time

from datamodules.prepare.image_shard_writing import Samples, write_image_folder


def render(key: str) -> dict[str, bytes]:
    print(key, flush=True)
    time.sleep(0.03)
    return {"webp": key.encode() * 9}


def main() -> int:
    keys = [f"k{i:02d}" for i in range(60)]
    about = {"name": "toy", "license": "CC0-1.0", "command": "none"}
    write_image_folder(sys.argv[1], {"train": Samples(keys, render)}, about, samples_per_shard=4, progress=False)
    return 0
