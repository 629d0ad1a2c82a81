"""Samples per second and core from shards to uint8 batches, as shares of decoding the same bytes in memory.

    python benchmarks/data/throughput.py                # 64, 256 and 512 px
    python benchmarks/data/throughput.py --png          # lossless pictures instead of JPEG

limit        the decoder alone on the bytes in memory, stacked to batches
stream       ImageTextDataModule's training stream, captions and metadata included
5 % broken   the same with one sample in twenty cut short; good samples count
ImageFolder  torchvision.datasets.ImageFolder on loose files (pictures only), through a DataLoader
webdataset   WebDataset().shuffle().decode("torchrgb8").to_tuple().batched(), the usual recipe
Everything runs in this process on one thread, in turn, several times; ratios are of the least CPU time of each, which
other work on the machine disturbs least.
"""

import argparse
import io
import json
import logging
import shutil
import sys
import tarfile
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2]))

from datamodules.image_decoding import decode_image
from datamodules.image_folder import open_images
from datamodules.image_samples import ImageSamples, SampleDecoder
from datamodules.image_stream import TrainImages, TrainPlan, Workers
from datamodules.image_transforms import ImageTransform
from datamodules.sample_order import ORDER, EndlessOrder
from datamodules.skipped import Skipped

BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 256, 512])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--png", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("fewstep.data").setLevel(logging.ERROR)
    columns = ["stream", "5 % broken", "ImageFolder", "webdataset"]
    print("| px | bytes | " + " | ".join(f"{name} / limit" for name in columns) + " | broken / whole |")
    print("|---|" * 1 + "---|" * (len(columns) + 2))
    for size in options.sizes:
        folder = Path(tempfile.mkdtemp(prefix="throughput_"))
        try:
            print(row(folder, size, "png" if options.png else "jpg", columns, options.rounds), flush=True)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def row(folder: Path, size: int, suffix: str, columns: list[str], rounds: int) -> str:
    count = {64: 2048, 256: 512}.get(size, 192)
    pictures = [encoded(natural(size, seed), suffix) for seed in range(min(count, 96))]
    pictures = [pictures[i % len(pictures)] for i in range(count)]
    cut = [p[: len(p) // 2] if i % 20 == 0 else p for i, p in enumerate(pictures)]
    write_shards(folder / "whole", pictures, suffix)
    write_shards(folder / "cut", cut, suffix)
    write_files(folder / "loose" / "class", pictures, suffix)
    runs: dict[str, Callable[[], int]] = {
        "limit": lambda: decode_only(pictures),
        "stream": endless(folder / "whole", size, count),
        "5 % broken": endless(folder / "cut", size, count),
        "ImageFolder": lambda: image_folder(folder / "loose"),
        "webdataset": lambda: plain_webdataset(folder / "whole", suffix),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 1):  # the first fills the caches
        for name, run in runs.items():
            start = time.process_time()
            seen = run()
            seconds[name].append((time.process_time() - start) / seen)
    least = {name: min(values[1:]) for name, values in seconds.items()}
    shares = {name: least["limit"] / value for name, value in least.items()}
    broken = least["stream"] / least["5 % broken"]
    cells = [str(size), str(sum(map(len, pictures)) // count), *(f"{shares[c]:.2f}" for c in columns), f"{broken:.2f}"]
    return f"| {' | '.join(cells)} |"


def natural(size: int, seed: int) -> np.ndarray:
    """A picture with the 1/f spectrum of photographs, uint8 [size, size, 3]."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]) + 1 / size
    spectrum = np.fft.rfft2(rng.standard_normal((3, size, size))) / frequency**1.2
    field = np.fft.irfft2(spectrum, s=(size, size)).transpose(1, 2, 0)
    return np.clip(128 + 50 * (field - field.mean()) / field.std(), 0, 255).astype(np.uint8)


def encoded(pixels: np.ndarray, suffix: str) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG" if suffix == "png" else "JPEG", quality=90)
    return content.getvalue()


def write_shards(folder: Path, pictures: list[bytes], suffix: str) -> None:
    folder.mkdir(parents=True)
    with tarfile.open(folder / "train-000000.tar", "w") as tar:
        for i, content in enumerate(pictures):
            metadata = json.dumps({"width": 1, "url": "somewhere"}).encode()
            for name, value in ((suffix, content), ("txt", b"a caption of some length"), ("json", metadata)):
                info = tarfile.TarInfo(f"{i:08d}.{name}")
                info.size = len(value)
                tar.addfile(info, io.BytesIO(value))


def write_files(folder: Path, pictures: list[bytes], suffix: str) -> None:
    folder.mkdir(parents=True)
    for i, content in enumerate(pictures):
        (folder / f"{i:08d}.{suffix}").write_bytes(content)


def decode_only(pictures: list[bytes]) -> int:
    for start in range(0, len(pictures), BATCH):
        torch.stack([decode_image(content) for content in pictures[start : start + BATCH]])
    return len(pictures)


def endless(folder: Path, size: int, count: int) -> Callable[[], int]:
    index = open_images(str(folder), "train")
    samples = ImageSamples(index, SampleDecoder(ImageTransform(size)), replace=True)
    plan = TrainPlan(EndlessOrder(len(index), 0, ORDER), BATCH, count // BATCH, 0, 1)
    stream = TrainImages(samples, plan, Workers(0), Skipped(1.0))
    return lambda: sum(len(batch["key"]) for batch in stream)


def image_folder(folder: Path) -> int:
    from torchvision.datasets import ImageFolder
    from torchvision.transforms.v2.functional import pil_to_tensor

    loader = torch.utils.data.DataLoader(ImageFolder(str(folder), pil_to_tensor), BATCH, shuffle=True)
    return sum(len(images) for images, _ in loader)


def plain_webdataset(folder: Path, suffix: str) -> int:
    import webdataset

    batches: Iterator = (
        webdataset.WebDataset(str(folder / "train-000000.tar"), shardshuffle=False)
        .shuffle(1000)
        .decode("torchrgb8")
        .to_tuple(suffix, "txt", "json")
        .batched(BATCH, collation_fn=lambda rows: (torch.stack([r[0] for r in rows]), *zip(*rows, strict=True)))
    )
    return sum(len(batch[0]) for batch in batches)


if __name__ == "__main__":
    main()
