"""From a checkpoint or a diffusers pipeline to a model, data and metrics that can be measured."""

import warnings
from argparse import ArgumentError
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jsonargparse import ArgumentParser
from lightning.pytorch import Callback, LightningDataModule, LightningModule

from callbacks.care.ema import EMA
from callbacks.checkpoints.chosen import best_checkpoint_in
from callbacks.checkpoints.reading import read_checkpoint
from callbacks.metrics.attributes import AttributeCallback
from callbacks.metrics.catalogue import CHOICES
from commands.config_errors import explain, read_configs
from commands.evaluate.data_flags import DATA_KEYS, flag, metadata_of, with_changes, with_metadata
from commands.evaluate.drawn import DrawnData, DrawnModule, PassesCallback, described, is_drawn
from commands.evaluate.kept_outputs import keeping_outputs
from commands.evaluate.metrics_by_name import by_name, of_config
from commands.evaluate.oracle_auc import OracleAUC, tell
from commands.evaluate.pipeline import PipelineModule, is_pipeline
from commands.evaluate.prompts import PromptData, answering_prompts
from commands.nearest_runs import refuse_folder_of_runs
from commands.option_groups import check_groups
from commands.packaged_places import located
from commands.picture_metrics import require_pictures
from commands.train.adopted_config import refuse_writes_outside
from commands.train.resume import run_directory_of
from commands.trusted_code import check, enforce
from commands.value_errors import refuse_nan
from commands.weight_mismatch import require_same_class, require_same_numbers
from fewstep.collaboration.command_line.drawn_files import ABOUT
from fewstep.files.plain_reader import shown
from fewstep.one_line import one_line
from fewstep.picture_size import as_stored

# Advice for training: hyper-parameters are read from the config here, and no checkpoint is saved.
ADVICE = r".*(is an instance of `nn.Module` and is already saved|callbacks used to create the checkpoint need).*"


class Options(NamedTuple):
    """Of the command line, see `evaluate.py --help`; None where nothing is given."""

    metrics: Sequence[str] = ()
    metric_options: Mapping[str, dict[str, Any]] = {}
    data: str | None = None
    prompts: Path | None = None
    num_samples: int | None = None
    batch_size: int | None = None
    guidance_scale: float | None = None
    seed: int = 0


class Built(NamedTuple):
    checkpoint: Path  # or a pipeline's folder
    config: Path
    content: dict[str, Any]  # of the config
    model: LightningModule
    data: LightningDataModule
    metrics: list[Callback]
    averaged: bool = False  # the checkpoint carries an exponential moving average of the weights
    step: int | None = None  # of training


def locate(path: Path, config: Path | None) -> tuple[Path, Path]:
    """Checkpoint file and config file for a checkpoint or a run directory.

    Errors in one line: FileNotFoundError; ValueError for a pipeline with a config.
    """
    if is_pipeline(path) or is_drawn(path):
        if config is not None:
            raise ValueError(f"--config is for checkpoints; {path} is a folder that has its own settings")
        return path, path / (ABOUT if is_drawn(path) else "model_index.json")
    if path.is_dir():
        refuse_folder_of_runs(path)
        path = best_checkpoint_in(path) or path / "checkpoints" / "last.ckpt"
    own = run_directory_of(path) / "config.yaml"
    if not path.is_file():
        raise FileNotFoundError(
            f"checkpoint {path} does not exist; give a .ckpt file, a run directory or a diffusers folder"
        )
    if not (config or own).is_file():
        raise FileNotFoundError(f"config {config or own} does not exist; name the run's config with --config")
    return path, config or own


def build(checkpoint: Path, config: Path, steps: int | None, options: Options, adopted: bool = False) -> Built:
    """Model and data of a config, the model with the weights of the checkpoint; nothing in either file is executed.

    With `options.prompts` these are the data, and the model draws in so many `steps`.
    adopted: nobody has named the config, it lies in the run's folder.
    Errors: ValueError in one line for files that cannot be read or do not belong together, and for an adopted config
    whose data or metrics would keep what they computed outside that folder.
    """
    for name, value in (("steps", steps), ("guidance-scale", options.guidance_scale)):
        if value is not None and options.prompts is None:
            raise ValueError(f"--{name} is for diffusers folders and for --prompts; {checkpoint} is a checkpoint")
    enforce()
    stored = read_checkpoint(checkpoint, lazily=True)
    configs = read_configs([config])
    configs[str(config)] = content = located(configs[str(config)])
    if dotted := next(_dotted(content), None):
        raise ValueError(f"config {config} has the key {dotted!r}; write it without dots, one key below the other")
    threads = content.get("num_threads")
    if threads is not None and (type(threads) is not int or threads < 1):
        raise ValueError(f"config {config}: num_threads={shown(threads)}: give a whole number from 1, or null")
    parser = ArgumentParser(exit_on_error=False)
    changes: dict[str, Any] = {}
    parts = {"model": LightningModule} | ({"data": LightningDataModule} if options.prompts is None else {})
    for key, base in parts.items():
        if not isinstance(content.get(key), dict) or "class_path" not in content[key]:
            raise ValueError(f"config {config} has no {key}.class_path; name the run's own config with --config")
        parser.add_subclass_arguments(base, key, fail_untyped=False)
    if options.prompts is None:
        wanted = {key: getattr(options, option) for key, option in DATA_KEYS.items()}
        changes = {key: value for key, value in wanted.items() if value is not None}
        if not isinstance(content["data"].get("init_args") or {}, dict):
            raise ValueError(f"config {config}: data.init_args holds no keys and values")
        arguments = with_changes(content["data"].get("init_args") or {}, changes)
        content["data"]["init_args"] = with_metadata(arguments, metadata_of(options.metrics, options.metric_options))
    try:
        parsed = parser.parse_object({key: content[key] for key in parts})
    except ArgumentError as error:
        for key in changes:
            if f"Option '{key}' is not accepted" in str(error):
                data = content["data"]["class_path"]
                raise ValueError(f"{flag(key)} is nothing that {data} takes; leave it out") from error
        raise ValueError(explain(str(error), parser, configs, [])) from error
    check(parsed)
    check_groups(parsed)
    refuse_nan(parsed)
    _vet(parsed, config, adopted)
    if options.prompts is None:
        asked = {f"--metrics {name}": CHOICES[name].callback for name in options.metrics}
        require_pictures(asked, parsed.data.class_path, "without --metrics the run is measured by what fits its data")
    else:
        prompts, content["data"] = read_prompts_instead(options)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=ADVICE)
        ready = parser.instantiate(parsed, instantiators=[(instantiator(steps, options), LightningModule, True)])
    _load_weights(ready.model, stored, checkpoint, config)
    averaged = EMA().state_key in stored.get("callbacks", {})
    data = ready.data if options.prompts is None else prompts
    chosen = options.metrics and by_name(options.metrics, options.metric_options)
    metrics = chosen or of_config(content, data, str(config), lambda used: _vet({"callbacks": used}, config, adopted))
    step = stored.get("global_step")
    return Built(checkpoint, config, content, ready.model, data, metrics, averaged, step)


def instantiator(steps: int | None, options: Options) -> Callable[..., LightningModule]:
    """Builds a config's model as the kind that an evaluation tests: its outputs are kept, and prompts answered."""

    def instantiate(kind: type[LightningModule], *arguments: Any, **named: Any) -> LightningModule:
        if options.prompts is not None:
            kind = answering_prompts(kind, options.seed, steps, options.guidance_scale)
        return keeping_outputs(kind)(*arguments, **named)

    return instantiate


def _vet(parsed: Any, config: Path, adopted: bool) -> None:
    if adopted:
        refuse_writes_outside(parsed, config, "--config")


def _dotted(content: Mapping[str, Any], inside: bool = False) -> Iterator[str]:
    """Keys with dots that train.py takes apart and that would be passed over here; not those of a class's arguments."""
    for key, value in content.items():
        first, *others = str(key).split(".")
        used = inside or first in ("model", "data", "callbacks")
        if used and others:
            yield str(key)
        if used and isinstance(value, Mapping) and key not in ("init_args", "dict_kwargs"):
            yield from _dotted(value, inside=True)


def _load_weights(model: LightningModule, stored: Mapping[str, Any], checkpoint: Path, config: Path) -> None:
    require_same_class(stored, model, checkpoint, config)
    try:
        require_same_numbers(stored["state_dict"], model)
        model.load_state_dict(stored["state_dict"])
    except RuntimeError as error:
        reason = one_line(error, 300)
        raise ValueError(f"checkpoint {checkpoint} does not fit the model of {config}: {reason}") from error


def build_pipeline(
    folder: Path, pipeline: Any, steps: int, options: Options, images: type[LightningDataModule]
) -> Built:
    """A diffusers folder with prompts from a file or from the test split of `--data`, read by a datamodule `images`.

    pipeline: of the folder. Errors: ValueError in one line.
    """
    if not options.metrics:
        raise ValueError(f"{folder} is a diffusers folder without a config; choose --metrics, such as fid clip_score")
    if (options.data is None) == (options.prompts is None):
        raise ValueError(
            f"{folder} is a diffusers folder; take its prompts from either --data FOLDER or --prompts FILE"
        )
    model = PipelineModule(pipeline, steps, options.guidance_scale, options.seed)
    if options.prompts is not None:
        data, described = read_prompts_instead(options)
    else:
        arguments: dict[str, Any] = {"path": options.data, "image_size": as_stored(model.image_size)}
        arguments["splits"] = {"num_test": options.num_samples}
        arguments = with_metadata(arguments, metadata_of(options.metrics, options.metric_options))
        data = images(**arguments, eval_batch_size=options.batch_size or 8)
        described = {"class_path": f"{images.__module__}.{images.__name__}", "init_args": arguments}
    metrics = by_name(options.metrics, options.metric_options)
    return Built(folder, folder / "model_index.json", {"data": described}, model, data, metrics)


def build_drawn(folder: Path, steps: int | None, options: Options) -> Built:
    """Pictures that `python -m fewstep.collaboration draw` has left, all of them. Errors: ValueError in one line."""
    told = {name: getattr(options, name) for name in ("data", "prompts", "num_samples", "guidance_scale")}
    for name, value in (told | {"steps": steps}).items():
        if value is not None:
            given = f"--{name.replace('_', '-')} is for pictures that are to be drawn"
            raise ValueError(f"{given}; those of {folder} are there, leave it out")
    if not options.metrics:
        raise ValueError(f"{folder} holds drawn pictures without a config; choose --metrics, such as attributes")
    refuse_real_images(options, f"and {folder} has drawn ones alone")
    model = DrawnModule(folder)
    rows = list(model.rows.values())
    for field in metadata_of(options.metrics, options.metric_options):
        if field != "attributes" or not all(row["attributes"] for row in rows):
            raise ValueError(f"--metrics needs {field} of every sample, which {folder} does not have")
    data = DrawnData(rows, options.batch_size or 8)
    metrics = by_name(options.metrics, options.metric_options)
    readers = [metric for metric in metrics if isinstance(metric, AttributeCallback)]
    if readers and model.drafts is None:
        tell(f"{folder} has no drafts/ of what was repaired: no AUC of the oracle is told")
        readers = []
    metrics += [*map(OracleAUC, readers), PassesCallback(rows)]
    return Built(folder, folder / ABOUT, {"data": described(rows)}, model, data, metrics)


def refuse_real_images(options: Options, told: str) -> None:
    """ValueError in one line for a metric that needs real pictures to compare with."""
    for name in [name for name in options.metrics if CHOICES[name].of_real_images]:
        if name != "fid" or "reference" not in options.metric_options.get(name, {}):
            raise ValueError(f"--metrics {name} compares with real images; {told}")


def read_prompts_instead(options: Options) -> tuple[LightningDataModule, dict[str, Any]]:
    """The prompts of `options` as data, and how metrics.json describes them. ValueError where a metric needs images."""
    if not options.metrics or options.data is not None:
        raise ValueError("--prompts needs --metrics, such as clip_score, and no --data")
    refuse_real_images(options, "give --data FOLDER instead of --prompts")
    if lacking := metadata_of(options.metrics, options.metric_options):
        raise ValueError(f"--metrics needs {lacking[0]} of every sample; give --data FOLDER instead of --prompts")
    data = PromptData(options.prompts, options.num_samples, options.batch_size or 8)
    return data, {"prompts": str(options.prompts), "num_samples": options.num_samples}
