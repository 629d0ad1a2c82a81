"""A training step of a small UNet fed by the stream against the same step on tensors in memory.

    python benchmarks/data/step_time.py

Batches of 64 from data/emoji64, one loader worker, one thread for the network (2.9 M parameters at 16x16, as the emoji
latents). Segments of both kinds alternate in one process; the ratio is that of median wall times per step.
"""

import argparse
import statistics
import sys
import time
from itertools import cycle, islice
from pathlib import Path

import torch
from torch.nn import functional as F

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from datamodules import ImageTextDataModule  # noqa: E402  the line above makes it findable

BATCH, SEGMENT = 64, 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--segments", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    step = training_step()
    data = ImageTextDataModule(str(ROOT / "data" / "emoji64"), 64, BATCH, steps_per_epoch=1 << 20, num_workers=1)
    data.setup("fit")
    stream = iter(data.train_dataloader())
    memory = cycle([next(stream) for _ in range(SEGMENT)])
    seconds = {"memory": [], "stream": []}
    for source in (memory, stream):  # warm up
        run(step, data, source)
    for _ in range(options.segments):
        seconds["memory"] += run(step, data, memory)
        seconds["stream"] += run(step, data, stream)
    ratio = statistics.median(seconds["stream"]) / statistics.median(seconds["memory"])
    print(f"step fed by the stream / step on tensors in memory: {ratio:.3f} ({len(seconds['memory'])} steps each)")


def training_step():
    """Predict the noise in a quarter-size picture; returns a function of a batch."""
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    down, up = ("DownBlock2D",) * 3, ("UpBlock2D",) * 3
    net = UNet2DModel(16, 3, 3, block_out_channels=(64, 128, 128), down_block_types=down, up_block_types=up)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-4)

    def step(image: torch.Tensor) -> None:
        small = F.avg_pool2d(image, 4)
        noise, time_ = torch.randn_like(small), torch.rand(len(small))
        noisy = small + time_[:, None, None, None] * noise
        loss = F.mse_loss(net(noisy, time_ * 1000).sample, noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def run(step, data: ImageTextDataModule, source) -> list[float]:
    """Wall seconds of each step of a segment, waiting for its batch included."""
    seconds, start = [], time.perf_counter()
    for batch in islice(source, SEGMENT):
        step(data.on_after_batch_transfer({**batch}, 0)["image"])
        seconds.append(time.perf_counter() - start)
        start = time.perf_counter()
    return seconds


if __name__ == "__main__":
    main()
