"""A built run -> its numbers: the test itself, and what stands beside each number."""

import importlib.metadata
import math
import os
import platform
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from torch import Tensor

from callbacks.care.ema import EMA
from callbacks.metrics.measurements import GivesIntervals, KeepsInfluence, KeepsRows, Measures
from commands.evaluate.build import ADVICE, Built
from commands.evaluate.drawn import DrawnModule
from commands.evaluate.metrics_by_name import SamplingCost
from commands.evaluate.natural_units import with_natural_units
from commands.evaluate.pipeline import PipelineModule
from commands.report.names import settings

VERSIONS_OF = ("fewstep", "torch", "lightning", "pot")
VERSIONS_OF_IMAGES = ("torchvision", "torchmetrics", "diffusers", "transformers", "open-clip-torch", "torch-fidelity")


def check_devices(number: int) -> None:
    """ValueError in one line for more processes than there are accelerators or, without one, processors."""
    accelerators = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
    if number > (limit := accelerators or os.cpu_count() or 1):
        raise ValueError(
            f"--devices {number}: this machine has {limit} {'accelerators' if accelerators else 'processors'}"
        )


def measure(built: Built, seed: int, devices: int, num_bootstrap: int) -> tuple[dict[str, Any], bytes | None] | None:
    """Run the test; returns (run as in commands.report, PNG of the samples), or None in all processes but the first.

    The averaged weights are measured where the checkpoint has them. Vectors in full precision, images in that of the
    run's config, so that the numbers are those that the run logged itself.
    """
    seed_everything(seed, verbose=False)
    if threads := built.content.get("num_threads"):
        torch.set_num_threads(threads)
    images = not hasattr(type(built.data), "y_names")
    precision = (built.content.get("trainer") or {}).get("precision") if images else None
    cost = SamplingCost()
    callbacks = [EMA()] if built.averaged else []
    for metric in built.metrics:
        if getattr(metric, "interval", False) is None:  # not chosen: wanted in evaluations
            metric.interval = True
    is_checkpoint = not isinstance(built.model, PipelineModule | DrawnModule)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=ADVICE)
        trainer = Trainer(
            devices=devices,
            precision=precision,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,  # the datamodules share their rows among the ranks themselves
            default_root_dir=folder,
            callbacks=[*callbacks, cost, *built.metrics],
        )
        start = time.perf_counter()
        weights = built.checkpoint if is_checkpoint else None
        trainer.test(built.model, built.data, ckpt_path=weights, weights_only=True, verbose=False)
        seconds = time.perf_counter() - start
        if not trainer.is_global_zero:
            return None
        pictures = [Path(folder, "pictures", "samples.png"), *Path(folder, "pictures").glob("test_samples/*.png")]
        image = next((file.read_bytes() for file in pictures if file.exists()), None)
    values = {k: float(v) for k, v in sorted(trainer.callback_metrics.items()) if k.startswith("test/")}
    intervals, protocol = _beside(built.metrics, values, num_bootstrap, seed)
    rows, influence = ({k: v for k, v in each.items() if k in values} for each in _behind(built.metrics))
    run = {
        "checkpoint": str(built.checkpoint),
        "config": str(built.config),
        "data": built.content["data"],
        "metrics": {k: v if math.isfinite(v) else None for k, v in values.items()},
        "intervals": intervals,
        "protocol": protocol,
        "sampling": cost.sampling() | getattr(built.model, "settings", {}),
        "step": built.step,
        "seed": seed,
        "settings": settings(built.content),
        "rows": rows,
        "influence": influence,
        "seconds": round(seconds, 2),
        "device": _device(trainer),
        "versions": _versions(images),
    }
    return with_natural_units(built.model, run), image


def _beside(
    metrics: Sequence[Callback], values: Mapping[str, float], num_bootstrap: int, seed: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Intervals [low, high], and how each number was taken, by metric name."""
    intervals, protocol = {}, {}
    for metric in metrics:
        if isinstance(metric, GivesIntervals) and callable(metric.intervals):
            intervals |= {k: v for k, v in metric.intervals(num_bootstrap, seed).items() if k in values}
        measured = metric.measured if isinstance(metric, Measures) and isinstance(metric.measured, dict) else {}
        intervals |= {k: entry["interval"] for k, entry in measured.items() if "interval" in entry}
        beside = ("value", "interval")
        protocol |= {k: {n: v for n, v in entry.items() if n not in beside} for k, entry in measured.items()}
    return intervals, protocol


def _behind(metrics: Sequence[Callback]) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Values of the test rows, and influences of samples, by metric name; without those that are not all finite."""
    rows = {k: v for metric in metrics if isinstance(metric, KeepsRows) for k, v in dict(metric.rows).items()}
    influence = {k: v for metric in metrics if isinstance(metric, KeepsInfluence) for k, v in metric.influence.items()}
    return _finite(rows), _finite(influence)


def _finite(columns: Mapping[str, Tensor]) -> dict[str, list[float]]:
    return {k: v.double().tolist() for k, v in columns.items() if v.ndim == 1 and v.isfinite().all()}


def _versions(images: bool) -> dict[str, str]:
    found = {}
    for name in (*VERSIONS_OF, *(VERSIONS_OF_IMAGES if images else ())):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found | {"python": platform.python_version()}


def _device(trainer: Trainer) -> str:
    device = trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return name if trainer.world_size == 1 else f"{trainer.world_size} x {name}"
