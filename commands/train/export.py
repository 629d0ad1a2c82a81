"""`python train.py export`: a run's network for other programs, from a checkpoint that is there."""

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from jsonargparse import ArgumentParser
from lightning.pytorch import LightningModule

from callbacks.care import stop_signals
from callbacks.checkpoints.chosen import best_checkpoint_in
from callbacks.checkpoints.export import export_weights
from callbacks.checkpoints.newest_checkpoint import newest_checkpoint
from callbacks.checkpoints.reading import read_checkpoint
from commands.config_errors import explain, read_configs
from commands.nearest_runs import named, nearest_runs
from commands.option_groups import check_groups
from commands.packaged_places import located
from commands.process import quiet
from commands.train import exit_codes
from commands.train.adopted_config import refuse_foreign_folder
from commands.train.resume import run_directory_of
from commands.train.scan import with_local_paths
from commands.train.summary import print_export
from commands.trusted_code import check, take_trust
from commands.value_errors import refuse_nan
from commands.weight_mismatch import require_same_class, require_same_numbers


def run(argv: Sequence[str]) -> int:
    """Run the words behind `export`; returns the exit code, one of those in train.py's docstring."""
    quiet()
    with stop_signals.handled():
        try:
            given = parse(with_local_paths(take_trust(argv)))
            folder, checkpoint = locate(given.run_dir, given.ckpt_path)
            export(folder, checkpoint)
        except (Exception, stop_signals.Stopped) as error:
            return exit_codes.report(error, None)
    return 0


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """run_dir, ckpt_path; ValueError in one line for other words."""
    parser = argparse.ArgumentParser("train.py export", description=__doc__, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--run_dir", metavar="RUN", help="folder of the run, which holds its config.yaml")
    parser.add_argument("--ckpt_path", metavar="CKPT", help="a checkpoint; the run's best one, else its newest")
    try:
        given, rest = parser.parse_known_args(list(argv))
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from error
    if rest:
        raise ValueError(f"unexpected argument {rest[0]!r}; export takes --run_dir RUN and --ckpt_path CKPT")
    if given.run_dir is None and given.ckpt_path is None:
        raise ValueError(f"export needs the folder of a run; add --run_dir RUN{named(nearest_runs(Path('runs')))}")
    return given


def locate(run_dir: str | None, ckpt_path: str | None) -> tuple[Path, Path | str]:
    """The run's folder and the checkpoint to export.

    Errors: ValueError or FileNotFoundError in one line for a folder that is no run or holds no checkpoint of use.
    """
    folder = Path(run_dir) if run_dir else run_directory_of(str(ckpt_path))
    if not (folder / "config.yaml").is_file():
        raise FileNotFoundError(
            f"{folder / 'config.yaml'} does not exist: {folder} is no run{named(nearest_runs(folder))}"
        )
    refuse_foreign_folder(folder / "config.yaml")
    checkpoint = ckpt_path or best_checkpoint_in(folder) or newest_checkpoint([folder / "checkpoints"])
    if checkpoint is None:
        raise FileNotFoundError(f"no checkpoint in {folder / 'checkpoints'}; add --ckpt_path with one of this run")
    return folder, checkpoint


def export(folder: Path, checkpoint: Path | str) -> None:
    """Write RUN/export with the averaged weights of a checkpoint, and say what takes it. ValueError in one line."""
    config = folder / "config.yaml"
    model = build_model(config)
    if not hasattr(model, "export"):
        raise ValueError(
            f"{type(model).__name__} has no export; its checkpoint {quote(str(checkpoint))} is all there is"
        )
    stored = read_checkpoint(checkpoint)
    require_same_class(stored, model, checkpoint, config)
    require_same_numbers(stored["state_dict"], model)
    export_weights(stored, model, str(folder / "export"))
    print(f"checkpoint     {checkpoint}, step {stored.get('global_step')}")
    print_export(str(folder / "export"), model)


def build_model(config: Path) -> LightningModule:
    """The module of a run's config, as it was before its training. ValueError in one line."""
    configs = read_configs([config])
    content: Any = located(configs[str(config)].get("model"))
    if not isinstance(content, dict) or "class_path" not in content:
        raise ValueError(f"config {config} has no model.class_path; export needs the config that the run has saved")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningModule, "model", fail_untyped=False)
    try:
        parsed = parser.parse_object({"model": content})
    except argparse.ArgumentError as error:
        raise ValueError(explain(str(error), parser, configs, [])) from error
    check(parsed)
    check_groups(parsed)
    refuse_nan(parsed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is an instance of `nn.Module` and is already saved.*")
        return parser.instantiate(parsed).model
