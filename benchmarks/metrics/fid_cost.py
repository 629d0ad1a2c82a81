"""Time of an FID: FIDCallback against the network's forward pass alone, torchmetrics and pytorch-fid.

    python benchmarks/metrics/fid_cost.py [--images 10000] [--batch 50] [--repeats 3] [--device cuda] [--threads 1]

All run the same Inception (random weights cost the same; --weights takes the published ones) on the same N real and N
generated 64 x 64 pictures, one after the other in each repeat; the table has ratios to the forward pass of the 2 N
pictures, medians over the repeats. The overhead at 10,000 pictures is put together from two costs: what the callback
does for a picture besides the network, measured on 2000 pictures with a network that returns stored features; and the
last distance, which is paid once. pytorch-fid reads PNG files and is run if it is installed. On the CPU, CPU seconds of
this process are compared, which other users of the machine change little; all files are read in this process, too.
"""

import argparse
import importlib.util
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from callbacks import FIDCallback
from fewstep.features import FIDInception, full_float32
from fewstep.frechet import FeatureMoments, frechet_distance


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


def random_weights(folder: Path) -> str:
    """A file of torch-fidelity's Inception with random weights, scaled so that the features neither vanish nor grow."""
    from torch_fidelity import feature_extractor_inceptionv3 as module

    extractor, load = module.FeatureExtractorInceptionV3, module.FeatureExtractorInceptionV3.load_state_dict
    download = module.load_state_dict_from_url
    torch.manual_seed(0)
    try:
        extractor.load_state_dict, module.load_state_dict_from_url = lambda self, state: None, lambda *a, **k: {}
        network = extractor("inception-v3-compat", ["2048"])
    finally:
        extractor.load_state_dict, module.load_state_dict_from_url = load, download
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
    torch.save(network.state_dict(), folder / "inception.pth")
    return str(folder / "inception.pth")


def forward_alone(network: nn.Module, real: Tensor, made: Tensor, batch: int, device: str) -> None:
    with full_float32(torch.device(device)):
        for side in (real, made):
            for rows in side.split(batch):
                network(rows.to(device))


class Stored(nn.Module):
    """In place of the Inception: features of its shape that cost nothing."""

    name, num_features, protocol = "stored", 2048, {"network": "stored"}

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.register_buffer("features", features)
        self.at = 0

    def forward(self, images: Tensor) -> Tensor:
        rows = slice(self.at, self.at + len(images))
        self.at = rows.stop
        return self.features[rows]


def callback(network: nn.Module, real: Tensor, made: Tensor, batch: int, device: str, cache: Path) -> float:
    trainer = Trainer(
        accelerator="gpu" if device == "cuda" else "cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=cache,
        callbacks=[FIDCallback(network, cache_dir=str(cache))],
    )  # fmt: skip
    trainer.test(Generator(), Batches(real, made, batch), verbose=False)
    return next(iter(trainer.callback_metrics.values())).item()


def torchmetrics_fid(weights: str, real: Tensor, made: Tensor, batch: int, device: str) -> Callable[[], float]:
    from torchmetrics.image import FrechetInceptionDistance

    options = {"feature_extractor_weights_path": weights, "antialias": False}
    metric = FrechetInceptionDistance(2048, **options).to(device)

    def run() -> float:
        metric.reset()
        for side, is_real in ((real, True), (made, False)):
            for rows in side.split(batch):
                metric.update(rows.to(device), real=is_real)
        return metric.compute().item()

    return run


def pytorch_fid(weights: str, real: Tensor, made: Tensor, batch: int, device: str, folder: Path) -> Callable[[], float]:
    from PIL import Image
    from pytorch_fid import fid_score, inception

    for name, side in (("real", real), ("made", made)):
        (folder / name).mkdir()
        for number, picture in enumerate(side):
            Image.fromarray(picture.permute(1, 2, 0).numpy()).save(folder / name / f"{number:06d}.png")
    inception.load_state_dict_from_url = lambda *args, **kwargs: torch.load(weights, weights_only=True)
    paths = [str(folder / name) for name in ("real", "made")]
    return lambda: float(fid_score.calculate_fid_given_paths(paths, batch, device, 2048, num_workers=0))


def seconds(run: Callable[[], object], device: str) -> float:
    clock = time.perf_counter if device == "cuda" else time.process_time
    start = clock()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000, metavar="N")
    parser.add_argument("--batch", type=int, default=50)
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
    weights = args.weights or random_weights(folder)
    network = FIDInception(weights).to(args.device)
    common = (real, made, args.batch, args.device)
    caches = iter([folder / f"cache-{i}" for i in range(args.repeats)])
    last: list[Path] = []

    def fresh() -> float:
        last.append(next(caches))
        return callback(network, *common, last[-1])

    runs: dict[str, Callable[[], object]] = {
        "forward pass alone": lambda: forward_alone(network, *common),
        "FIDCallback": fresh,
        "FIDCallback, real images known": lambda: callback(network, *common, last[-1]),
        "torchmetrics": torchmetrics_fid(weights, *common),
    }
    if importlib.util.find_spec("pytorch_fid"):
        runs["pytorch-fid (PNG files)"] = pytorch_fid(weights, *common, folder)
    network(real[:2].to(args.device))  # what the first pass of a network costs once
    found: dict[str, list[float]] = {name: [] for name in runs}
    found["besides the network"], found["last distance"] = [], []
    values: dict[str, object] = {}
    for repeat in range(args.repeats):
        for name, run in runs.items():
            try:
                found[name].append(seconds(lambda run=run, name=name: values.__setitem__(name, run()), args.device))
            except (TypeError, ValueError) as error:
                values[name] = f"fails: {' '.join(str(error).split())[:70]}"
        besides, last_distance = besides_network(args.batch, args.device, folder / f"stored-{repeat}")
        found["besides the network"].append(besides)
        found["last distance"].append(last_distance)
        print(f"repeat {repeat + 1} of {args.repeats}", flush=True)
    report(args, {name: statistics.median(times) for name, times in found.items() if times}, values)


def report(args: argparse.Namespace, medians: dict[str, float], values: dict[str, object]) -> None:
    alone = medians["forward pass alone"]
    last, besides = medians.pop("last distance") / alone, medians.pop("besides the network") / alone
    picture = 1 / (2 * args.images)  # one picture's share of the forward pass
    print(f"\nN = {args.images} real and generated pictures each, batches of {args.batch}, {args.device}\n")
    print("| | time / forward pass | value |\n|---|---|---|")
    for name, median in medians.items():
        value = values.get(name)
        print(f"| {name} | {median / alone:.3f} | {f'{value:.6g}' if isinstance(value, float) else ''} |")
    for name in values.keys() - medians.keys():
        print(f"| {name} | | {values[name]} |")
    print(f"\nbesides the network, a picture costs {100 * besides / picture:.2f} % of its forward pass")
    print(f"the last distance takes as long as the forward pass of {last / picture:.1f} pictures")
    print(f"overhead at 10,000 pictures on either side: {100 * (besides / picture + last / picture / 20_000):.2f} %")


def besides_network(batch: int, device: str, cache: Path, num: int = 2000) -> tuple[float, float]:
    """Seconds per picture of a run of the callback without a network and last distance, and those of the distance."""
    pictures = torch.randint(0, 256, (num, 3, 64, 64), dtype=torch.uint8)
    features, sides = torch.rand(2 * num, Stored.num_features, device=device), []
    for rows in features.chunk(2):
        moments = FeatureMoments(Stored.num_features, device)
        moments.add(rows)
        sides.append(moments.gaussian())
    last = seconds(lambda: frechet_distance(*sides), device)
    taken = seconds(lambda: callback(Stored(features), pictures, pictures, batch, device, cache), device)
    return (taken - last) / (2 * num), last


if __name__ == "__main__":
    main()
