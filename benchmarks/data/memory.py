"""Memory of the stream after every pass over data/emoji64: it must not grow.

    python benchmarks/data/memory.py --passes 6 --workers 2

Proportional set size (pages shared between processes are counted once) of this process and its workers, in MiB.
"""

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passes", type=int, default=6)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    for number, size in enumerate(sizes(options.passes, options.workers), start=1):
        print(f"after pass {number}: {size:.1f} MiB", flush=True)


def sizes(passes: int, workers: int):
    """MiB after each pass."""
    from datamodules import ImageTextDataModule
    from datamodules.image_options import TransformOptions

    data = ImageTextDataModule(
        str(ROOT / "data" / "emoji64"), 64, 64, num_workers=workers, transform=TransformOptions("random", flip=True)
    )
    data.setup("fit")
    stream = data.train_dataloader()
    for _ in range(passes):
        for batch in stream:
            data.on_after_batch_transfer(batch, 0)
        yield sum(map(proportional_set_size, family())) / 2**20


def family() -> list[int]:
    """This process and its children."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [os.getpid(), *map(int, children)]


def proportional_set_size(process: int) -> int:
    """Bytes, from the kernel's account (Linux)."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


if __name__ == "__main__":
    main()
