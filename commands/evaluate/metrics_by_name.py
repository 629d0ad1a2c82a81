"""Which metrics an evaluation takes: by name, or those that the run's own config measures with."""

import difflib
import sys
from argparse import ArgumentError
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ProgressBar

from callbacks.metrics.accuracy import AccuracyCallback
from callbacks.metrics.catalogue import CHOICES
from callbacks.metrics.transport_metrics import TransportMetrics
from callbacks.pictures.sample_grid import SampleGridCallback
from callbacks.pictures.sample_picture import SamplePicture
from commands import config_text
from commands.config_errors import explain
from commands.moved_paths import new_path
from commands.picture_metrics import reads_vectors
from commands.trusted_code import check, enforce, resolve
from fewstep.gathering import gather
from fewstep.metrics.intervals import influence_interval
from fewstep.one_line import one_line


def check_names(names: Sequence[str], options: Mapping[str, Any]) -> None:
    """ValueError in one line for a metric that does not exist, is named twice, or has options but is not chosen."""
    for name in [*names, *options]:
        if name not in CHOICES:
            near = difflib.get_close_matches(name, CHOICES, 1, 0.4)
            hint = f"the nearest is {near[0]!r}" if near else "there are"
            raise ValueError(f"unknown metric {name!r}; {hint} ({', '.join(CHOICES)})")
    if twice := [name for name in names if list(names).count(name) > 1]:
        raise ValueError(f"metric {twice[0]!r} is named twice")
    if unused := [name for name in options if name not in names]:
        raise ValueError(
            f"--metrics.{unused[0]}.{next(iter(options[unused[0]]))} is given without --metrics {unused[0]}"
        )


def read_options(words: Sequence[str]) -> dict[str, dict[str, Any]]:
    """["--metrics.kid.subset_size", "50", ...] -> {"kid": {"subset_size": 50}}; "=" may stand for the blank.

    An argument below a class, --metrics.fid.network.weights FILE, becomes one of its init_args. ValueError in one line.
    """
    options: dict[str, dict[str, Any]] = {}
    words = [part for word in words for part in (word.split("=", 1) if word.startswith("--metrics.") else [word])]
    while words:
        key, *words = words
        path = key.removeprefix("--metrics.").split(".")
        if not key.startswith("--metrics.") or len(path) not in (2, 3) or not words:
            raise ValueError(f"unexpected argument {key!r}; an option of a metric is --metrics.NAME.OPTION VALUE")
        value, *words = words
        try:
            options.setdefault(path[0], {})[".".join(path[1:])] = config_text.read(value)
        except (yaml.YAMLError, ValueError) as error:
            raise ValueError(f"{key} {value!r}: {one_line(error, 160)}") from None
    return {name: _nested(values) for name, values in options.items()}


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {k: v for k, v in values.items() if "." not in k}
    for key, value in values.items():
        head, _, leaf = key.partition(".")
        if leaf:
            if not isinstance(nested.get(head), dict):
                nested[head] = {"class_path": nested.get(head), "init_args": {}}
            nested[head]["init_args"][leaf] = value
    return nested


def _merged(usual: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """`usual` but for what is given; an argument below a class that is not named goes to the usual one."""
    merged = dict(usual)
    for key, value in given.items():
        below = isinstance(value, dict) and value.get("class_path", "") is None and isinstance(usual.get(key), dict)
        merged[key] = {**usual[key], "init_args": value["init_args"]} if below else value
    return merged


def by_name(names: Sequence[str], options: Mapping[str, dict[str, Any]]) -> list[Callback]:
    """A callback per name, and the picture of the samples where the metrics are of pictures."""
    entries = {
        n: {"class_path": CHOICES[n].callback, "init_args": _merged(CHOICES[n].options, options.get(n, {}))}
        for n in names
    }
    chosen = _instantiate(entries, "--metrics")
    return [*chosen, SampleGridCallback()] if any(CHOICES[name].of_pictures for name in names) else chosen


def of_config(
    content: Mapping[str, Any], data: LightningDataModule, config: str, vet: Callable[[Any], None] = lambda _: None
) -> list[Callback]:
    """The callbacks of a run's config that read test outputs and do something with them when the test ends.

    So those that log numbers or draw pictures of a test, the user's own too; none that cares for the run.
    vet: raises ValueError for what the parser made of them if it may not be built.
    """
    entries = content.get("callbacks")
    entries = entries if isinstance(entries, dict) else {}
    reading = {
        name: entry for name, entry in entries.items() if isinstance(entry, dict) and _reads_outputs(entry, name)
    }
    chosen = _instantiate(reading, config, vet)
    known = [type(callback) for callback in chosen]
    if reads_vectors(type(data)) and AccuracyCallback not in known:  # vectors, not labels: always measured so
        chosen += [kind() for kind in (TransportMetrics, SamplePicture) if kind not in known]
    return chosen


def _reads_outputs(entry: Mapping[str, Any], name: str) -> bool:
    path = str(entry.get("class_path"))
    try:
        kind = resolve(path if "." in path else f"callbacks.{path}")
    except (ImportError, AttributeError):
        if moved := new_path(path):
            raise ValueError(f"callbacks.{name}: {path} is {moved} now; write that") from None
        # Such as a tracker that is not installed here; a run could not have measured with it.
        print(f"callbacks.{name}: {path} is not here, what it measures is left out", file=sys.stderr)
        return False
    if not isinstance(kind, type) or not issubclass(kind, Callback) or issubclass(kind, ProgressBar | Checkpoint):
        return False
    return all(
        getattr(kind, hook) is not getattr(Callback, hook) for hook in ("on_test_batch_end", "on_test_epoch_end")
    )


def _instantiate(
    entries: Mapping[str, Mapping[str, Any]], source: str, vet: Callable[[Any], None] = lambda _: None
) -> list[Callback]:
    enforce()
    parser = ArgumentParser(exit_on_error=False)
    for name in entries:
        parser.add_subclass_arguments(Callback, name, fail_untyped=False)
    try:
        parsed = parser.parse_object(dict(entries))
        check(parsed)
        vet(parsed)
        built = parser.instantiate(parsed)
    except ArgumentError as error:
        raise ValueError(f"{source}: {explain(str(error), parser, {source: entries}, [])}") from error
    return [built[name] for name in entries]


class SamplingCost(Callback):
    """Counts test samples, the seconds that the module took for them, and the mean of its `nfe`; logs nothing.

    Give it to the trainer before the metrics, whose time is none of the module's. `seconds` [B] of the outputs, where
    they are there, count instead of the clock. Every process must reach the end of the test.
    """

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._parts: list[tuple[float, float, float, float]] = []  # samples, seconds, samples with nfe, nfe

    def on_test_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self._start = _clock(trainer)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if dataloader_idx or not isinstance(batch, dict) or "weight" not in batch:
            return
        counted = batch["weight"].cpu() > 0
        outputs = outputs if isinstance(outputs, dict) else {}
        seconds, nfe = outputs.get("seconds"), outputs.get("nfe")
        passes = (0.0, 0.0) if nfe is None else (float(counted.sum()), float(nfe.cpu()[counted].sum()))
        if seconds is None:
            self._parts.append((float(counted.sum()), _clock(trainer) - self._start, *passes))
            return
        self._parts += [(1.0, taken, 0.0, 0.0) for taken in seconds.cpu()[counted].tolist()]
        self._parts.append((0.0, 0.0, *passes))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._parts = [part for each in gather(self._parts) for part in each]

    def sampling(self) -> dict[str, Any]:
        """{"samples", "seconds_per_sample", "nfe"} of all processes, without what is not known.

        "seconds_per_sample_interval": 95 %, over batches, or over samples where the outputs have the seconds of each.
        """
        table = torch.tensor(self._parts, dtype=torch.float64).reshape(-1, 4)
        samples, seconds, with_nfe, nfe = table.sum(0).tolist()
        table = table[table[:, 0] > 0]
        known: dict[str, Any] = {"samples": int(samples)}
        if samples:
            known["seconds_per_sample"] = float(f"{seconds / samples:.4g}")
        if len(table) > 1:  # of a ratio of means, by its influences
            influence = (table[:, 1] - seconds / samples * table[:, 0]) / table[:, 0].mean()
            ends = influence_interval(seconds / samples, influence)
            known["seconds_per_sample_interval"] = [float(f"{end:.4g}") for end in ends]
        return known | ({"nfe": nfe / with_nfe} if with_nfe else {})


def _clock(trainer: Trainer) -> float:
    import time

    if trainer.strategy.root_device.type == "cuda":
        torch.cuda.synchronize(trainer.strategy.root_device)
    return time.perf_counter()
