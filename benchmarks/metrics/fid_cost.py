"""Time of an FID: FIDCallback against the network's forward pass alone, torchmetrics and pytorch-fid.

    python benchmarks/metrics/fid_cost.py [--images 10000] [--batch 50] [--repeats 3] [--device cuda] [--threads 1]
    python benchmarks/metrics/fid_cost.py --network mobilenet --runs "forward pass alone" FIDCallback

All run the same network, the FID Inception (random weights cost the same; --weights takes the published ones) or
MobileNetV2 at 64 pixels, whose forward pass is far shorter, on the same N real and N generated 64 x 64 pictures, one
after the other in each repeat. The overhead of FIDCallback is what one run of it spends outside the network, against
what the same run spends in it (per cent in brackets): the last distance is paid once, the rest for each picture.
pytorch-fid reads PNG files and is run if it is installed. On the CPU, CPU seconds of this process are measured, but on
a busy machine even these vary between rows; all files are read in this process, too.
"""

import argparse
import importlib.util
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.metrics.fid_rivals import pytorch_fid, random_weights, torchmetrics_fid
from callbacks import FIDCallback
from fewstep.metrics.features import FIDInception, MobileNetV2, full_float32


class Generator(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def test_step(self, batch: dict, batch_idx: int) -> dict[str, Tensor]:
        return {"image": batch["made"]}


class Batches:
    """Batches as the datamodules give them, out of memory."""

    def __init__(self, real: Tensor, made: Tensor, batch: int) -> None:
        self.real, self.made, self.batch = real, made, batch

    def __iter__(self) -> Iterator[dict]:
        for start in range(0, len(self.real), self.batch):
            rows = slice(start, start + self.batch)
            count = len(self.real[rows])
            yield {
                "image": self.real[rows].float() / 127.5 - 1,
                "made": self.made[rows].float() / 127.5 - 1,
                "key": [str(start + i) for i in range(count)],
                "weight": torch.ones(count),
            }


def forward_alone(network: nn.Module, real: Tensor, made: Tensor, batch: int, device: str) -> None:
    with full_float32(torch.device(device)):
        for side in (real, made):
            for rows in side.split(batch):
                network(rows.to(device))


class Timed(FIDCallback):
    """Measures `inside` the network and `after` the last batch, in seconds; the rest is its work for the batches."""

    def __init__(self, network: nn.Module, device: str, **options: Any) -> None:
        super().__init__(network, **options)
        self.device, self.inside, self.after, self.started = device, 0.0, 0.0, 0.0
        self.hooks = (network.register_forward_pre_hook(self.enter), network.register_forward_hook(self.leave))

    def enter(self, *_: object) -> None:
        self.started = clock(self.device)

    def leave(self, *_: object) -> None:
        self.inside += clock(self.device) - self.started

    def finish(self, *arguments: Any) -> None:
        start = clock(self.device)
        super().finish(*arguments)
        self.after = clock(self.device) - start


def callback(
    network: nn.Module, real: Tensor, made: Tensor, batch: int, device: str, cache: Path, interval: bool = False
) -> tuple[float, Timed]:
    timed = Timed(network, device, cache_dir=str(cache), interval=interval)
    trainer = Trainer(
        accelerator="gpu" if device == "cuda" else "cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=cache, callbacks=[timed],
    )  # fmt: skip
    trainer.test(Generator(), Batches(real, made, batch), verbose=False)
    for hook in timed.hooks:
        hook.remove()
    return next(iter(trainer.callback_metrics.values())).item(), timed


def clock(device: str) -> float:
    """Seconds; on the CPU, those that this process has used."""
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000, metavar="N")
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--network", default="inception", choices=["inception", "mobilenet"])
    parser.add_argument("--runs", nargs="+", metavar="NAME", help="rows of the table; all if not given")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--weights", help="weights-inception-2015-12-05-6726825d.pth; random ones if not given")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as name:
        measure(args, Path(name))


def measure(args: argparse.Namespace, folder: Path) -> None:
    rng = torch.Generator().manual_seed(0)
    shape = (args.images, 3, 64, 64)
    real, made = (torch.randint(0, top, shape, dtype=torch.uint8, generator=rng) for top in (256, 200))
    inception = args.network == "inception"
    weights = (args.weights or random_weights(folder)) if inception else None
    network = (FIDInception(weights) if inception else MobileNetV2(size=64)).to(args.device)
    common = (real, made, args.batch, args.device)
    caches: list[Path] = []
    timed: dict[str, Timed] = {}

    def fid(name: str, known: bool = False, interval: bool = False) -> float:
        if not known:
            caches.append(folder / f"cache-{len(caches)}")
        value, timed[name] = callback(network, *common, caches[-1], interval)
        return value

    runs: dict[str, Callable[[], object]] = {
        "forward pass alone": lambda: forward_alone(network, *common),
        "FIDCallback": lambda: fid("FIDCallback"),
        "FIDCallback, real images known": lambda: fid("FIDCallback, real images known", known=True),
        "FIDCallback with interval": lambda: fid("FIDCallback with interval", interval=True),
        "torchmetrics": torchmetrics_fid(network, weights, *common),
    }
    if inception and importlib.util.find_spec("pytorch_fid"):
        runs["pytorch-fid (PNG files)"] = pytorch_fid(weights, *common, folder)
    network(real[:2].to(args.device))  # what the first pass of a network costs once
    runs = {name: run for name, run in runs.items() if name in (args.runs or runs)}
    print(f"{args.network}, N = {args.images} real and generated each, batches of {args.batch}, {args.device}\n")
    print("| repeat | | s | in the network | after the last batch | rest | value |\n|---|---|---|---|---|---|---|")
    for repeat in range(args.repeats):
        for name, run in runs.items():
            start = clock(args.device)
            try:
                value = f"{result:.6g}" if isinstance(result := run(), float) else ""
            except (TypeError, ValueError) as error:
                value = f"fails: {' '.join(str(error).split())[:70]}"
            row = [f"{(taken := clock(args.device) - start):.2f}"]
            if t := timed.get(name):
                rest = taken - t.inside - t.after
                row += [
                    f"{t.inside:.2f}",
                    f"{t.after:.2f} ({t.after / t.inside:.1%})",
                    f"{rest:.2f} ({rest / t.inside:.1%})",
                ]
            print("|", " | ".join([str(repeat + 1), name, *row, *[""] * (4 - len(row)), value]), "|", flush=True)


if __name__ == "__main__":
    main()
