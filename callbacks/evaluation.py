"""From a checkpoint and its config to measured values: the steps of evaluate.py."""

import importlib.metadata
import math
import platform
import tempfile
import time
import warnings
from argparse import ArgumentError
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule, LightningModule, Trainer, seed_everything

from callbacks.atomic_checkpoint import read_checkpoint
from callbacks.command_line_errors import explain, read_configs
from callbacks.ema import EMA
from callbacks.resume import run_directory_of
from callbacks.sample_picture import SamplePicture
from callbacks.transport_metrics import TransportMetrics

# Advice for training: hyper-parameters are read from the config here, and no checkpoint is saved.
ADVICE = r".*(is an instance of `nn.Module` and is already saved|callbacks used to create the checkpoint need).*"
VERSIONS_OF = ("fewstep", "torch", "lightning", "pot")


class Built(NamedTuple):
    checkpoint: Path
    config: Path
    content: dict[str, Any]  # of the config
    model: LightningModule
    data: LightningDataModule
    averaged: bool  # the checkpoint carries an exponential moving average of the weights


def locate(path: Path, config: Path | None) -> tuple[Path, Path]:
    """Checkpoint file and config file for a checkpoint or a run directory. Errors: FileNotFoundError in one line."""
    if path.is_dir():
        best = sorted(path.glob("checkpoints/best*.ckpt"), key=lambda file: file.stat().st_mtime_ns)
        path = best[-1] if best else path / "checkpoints" / "last.ckpt"
    config = config or run_directory_of(path) / "config.yaml"
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist; give a .ckpt file or a run directory")
    if not config.is_file():
        raise FileNotFoundError(f"config {config} does not exist; name the run's config with --config")
    return path, config


def build(checkpoint: Path, config: Path) -> Built:
    """Model and data of a config, the model with the weights of the checkpoint; nothing in either file is executed.

    Errors: ValueError in one line for files that cannot be read or do not belong together.
    """
    stored = read_checkpoint(checkpoint, lazily=True)
    configs = read_configs([config])
    content = configs[str(config)]
    parser = ArgumentParser(exit_on_error=False)
    for key, base in (("model", LightningModule), ("data", LightningDataModule)):
        if not isinstance(content.get(key), dict) or "class_path" not in content[key]:
            raise ValueError(f"config {config} has no {key}.class_path; name the run's own config with --config")
        parser.add_subclass_arguments(base, key, fail_untyped=False)
    try:
        parsed = parser.parse_object({key: content[key] for key in ("model", "data")})
    except ArgumentError as error:
        raise ValueError(explain(str(error), parser, configs, [])) from error
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=ADVICE)
        ready = parser.instantiate_classes(parsed)
    trained = stored.get("hyper_parameters", {}).get("_class_path", "").rpartition(".")[2]
    if trained and trained != type(ready.model).__name__:
        raise ValueError(f"checkpoint {checkpoint} holds a {trained}, {config} asks for a {type(ready.model).__name__}")
    try:
        ready.model.load_state_dict(stored["state_dict"])
    except RuntimeError as error:
        reason = " ".join(str(error).split()[:40])
        raise ValueError(f"checkpoint {checkpoint} does not fit the model of {config}: {reason}") from error
    averaged = EMA().state_key in stored.get("callbacks", {})
    return Built(checkpoint, config, content, ready.model, ready.data, averaged)


def measure(built: Built, seed: int, devices: int, num_bootstrap: int) -> tuple[dict[str, Any], bytes | None] | None:
    """Run the test; returns (run as in report.py, PNG of the samples), or None in all processes but the first.

    The averaged weights are measured where the checkpoint has them, in full precision.
    """
    seed_everything(seed, verbose=False)
    if threads := built.content.get("num_threads"):
        torch.set_num_threads(threads)
    metrics = TransportMetrics()
    callbacks = [EMA()] if built.averaged else []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=ADVICE)
        trainer = Trainer(
            devices=devices,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,  # the datamodules share their rows among the ranks themselves
            default_root_dir=folder,
            callbacks=[*callbacks, metrics, SamplePicture()],
        )
        start = time.perf_counter()
        trainer.test(built.model, built.data, ckpt_path=built.checkpoint, weights_only=True, verbose=False)
        seconds = time.perf_counter() - start
        if not trainer.is_global_zero:
            return None
        picture = Path(folder) / "pictures" / "samples.png"
        image = picture.read_bytes() if picture.exists() else None
    values = {k: float(v) for k, v in sorted(trainer.callback_metrics.items()) if k.startswith("test/")}
    run = {
        "checkpoint": str(built.checkpoint),
        "config": str(built.config),
        "data": built.content["data"],
        "metrics": {k: v if math.isfinite(v) else None for k, v in values.items()},
        "intervals": {k: v for k, v in metrics.intervals(num_bootstrap, seed).items() if k in values},
        "seconds": round(seconds, 2),
        "device": _device(trainer),
        "versions": {name: importlib.metadata.version(name) for name in VERSIONS_OF}
        | {"python": platform.python_version()},
    }
    return run, image


def _device(trainer: Trainer) -> str:
    device = trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return name if trainer.world_size == 1 else f"{trainer.world_size} x {name}"
