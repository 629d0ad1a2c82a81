"""The command line of train.py: LightningCLI with keyed callbacks, one folder per run and one-line errors."""

import argparse
import multiprocessing
import os
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import Namespace
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only

from callbacks.care import stop_signals
from callbacks.care.preemption import silence_lightning
from callbacks.checkpoints.accumulation_windows import AccumulationWindows
from callbacks.checkpoints.finished_epochs import FinishedEpochs
from callbacks.checkpoints.monitored_metrics import MonitoredMetrics
from callbacks.checkpoints.reading import read_checkpoint
from callbacks.tracking.trackio_logger import require_trackio
from commands import config_text, trusted_code
from commands.config_errors import explain, read_configs
from commands.option_groups import check_groups
from commands.packaged_files import hides_ours
from commands.packaged_places import locate, require_located
from commands.picture_metrics import is_of_pictures, require_pictures
from commands.process import leave_process_group, quiet
from commands.train import exit_codes, resume, run_lock
from commands.train import stages as run_stages
from commands.train.adopted_config import refuse_writes_outside
from commands.train.config_ranges import check_ranges
from commands.train.dead_ranks import RankWatch
from commands.train.dry_run import DryRun
from commands.train.dry_run_ranks import rehearsal, take_ranks
from commands.train.optimizer_options import OptimizerOptions
from commands.train.parser import WholeNamesParser, add_own_options
from commands.train.run_directory import RUN_ID_VARIABLE, RunDirectory, loggers, run_name
from commands.train.scan import callback_keys, scan, with_local_paths, with_saved_config, with_saved_model
from commands.train.table_sizes import with_table_sizes
from commands.value_errors import refuse_nan, values_named

OF_ONE_INVOCATION = ("config", "run_dir", "resume", "dry_run")  # not part of the config that a run saves


def run(argv: Sequence[str], default_config: str | Path, leaving: bool = False) -> int:
    """Run one command line; returns the exit code, one of those in train.py's docstring.

    argv: without the program's name. default_config: YAML that is read before every `-c`. leaving: the process ends
    with this command.
    Errors: what is not for the user to mend keeps its traceback.
    """
    quiet()
    command, code, together = None, exit_codes.FAILED, True
    others = multiprocessing.active_children()
    with stop_signals.handled(leaving):
        try:
            command = CommandLine(argv, default_config)
            command.run()
            code = 0
        except (Exception, stop_signals.Stopped) as error:
            together = getattr(error, "together", False)
            code = exit_codes.report(error, command)
        finally:
            for process in set(multiprocessing.active_children()) - set(others):
                process.kill()  # a loader worker that ignores signals would be waited for; it only reads
            if command is not None and command.watch is not None:
                lost = command.watch.finish(failed=code != 0)
                code = code or lost
            os.environ.pop(RUN_ID_VARIABLE, None)
            run_lock.release_all()
        if leaving and together:
            leave_process_group()
    return code


class CommandLine(LightningCLI):
    """Parse, then build data, model and trainer. `run()` does the work: whatever cannot be built fails before it."""

    def __init__(self, argv: Sequence[str], default_config: str | Path) -> None:
        self.watch: RankWatch | None = None
        config_text.use_in_parsers()
        given = with_local_paths(trusted_code.take_trust(argv))
        self.argv = with_saved_config(given)
        self.adopted = None if self.argv == given else Path(scan(self.argv).config[0])  # nobody has named it
        self.argv = with_table_sizes(with_saved_model(self.argv))
        files = [str(default_config), *scan(self.argv).config]
        for file in filter(hides_ours, files[1:]):
            rank_zero_only(print)(f"config  {file} is the one of this folder, not the one that comes along")
        self.raw_configs = read_configs(files)
        self.run_name = run_name(files[1:])
        strict = {"exit_on_error": False}
        defaults = {**strict, "default_config_files": [str(default_config)]}
        super().__init__(
            save_config_callback=None,
            parser_kwargs={**strict, **{name: dict(defaults) for name in self.subcommands()}},
            parser_class=WholeNamesParser,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            args=self.argv,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        loaders = {"dataloaders", "train_dataloaders", "val_dataloaders", "datamodule"}
        shared = {*loaders, "model", "weights_only", "verbose"}
        return {"fit": shared | {"ckpt_path"}, "validate": shared, "test": shared, "predict": shared}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        add_own_options(parser)
        for key in callback_keys(self.raw_configs, self.argv):
            parser.add_lightning_class_args(Callback, f"callbacks.{key}", subclass_mode=True, required=False)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        subparser = self._subcommand_parsers.get(self.argv[0])
        if subparser is None:
            raise ValueError(f"unknown command {self.argv[0]!r}; choose fit, validate, test, predict or export")
        try:
            self.config = parser.parse_args(self.argv)
            if self.adopted is not None:  # without the flags, which may lead where the user likes
                alone = parser.parse_args([self.argv[0], "-c", str(self.adopted)])
                refuse_writes_outside(alone[self.argv[0]], self.adopted)
        except argparse.ArgumentError as error:
            raise ValueError(explain(str(error), subparser, self.raw_configs, self.argv)) from error
        trusted_code.check(self.config)

    def _parse_ckpt_path(self) -> None:
        """Leave the config alone: a checkpoint's hyper-parameters never override it."""

    def instantiate_classes(self) -> None:
        """As Lightning does, but what a class says of a value names its key."""
        with values_named(self.settings):
            super().instantiate_classes()

    def before_instantiate_classes(self) -> None:
        self.settings = self.config[self.subcommand]
        require_located(self.settings, self.raw_configs)
        for line in locate(self.settings):
            rank_zero_only(print)(f"found   {line}")
        self.ranks = take_ranks(self.settings) if self.settings.dry_run else 1
        check_ranges(self.settings, self.subcommand)
        check_groups(self.settings)
        refuse_nan(self.settings)
        self._require_pictures()
        if self.settings.trackio != "disabled":
            require_trackio()
        if self.settings.num_threads:
            torch.set_num_threads(self.settings.num_threads)
        self._dump_config()
        self.saved_config = {k: v for k, v in self.config_dump.items() if k not in OF_ONE_INVOCATION}
        self.folder, self.checkpoint = resume.locate(self.settings, self.run_name, fitting=self.subcommand == "fit")
        if self.checkpoint is not None:
            stored = read_checkpoint(self.checkpoint, lazily=True)
            resume.compare(stored, self.config_dump["model"], self.config_dump.get("data"))

    def _require_pictures(self) -> None:
        data = self.settings.get("data")
        if data is not None:
            entries = vars(self.settings.get("callbacks") or Namespace())
            asked = {f"callbacks.{name}": entry.class_path for name, entry in entries.items() if entry is not None}
            off = " ".join(f"--{name} null" for name, path in asked.items() if is_of_pictures(path))
            require_pictures(asked, data.class_path, f"switch it off: {off}")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        keys = self._parser(self.subcommand).callback_keys
        callbacks = [c for key in keys if (c := self._get(self.config_init, key)) is not None]
        trainer = {**self._get(self.config_init, "trainer"), **kwargs}
        own_loggers = trainer["logger"] is None
        trainer["logger"] = False if own_loggers else trainer["logger"]
        trainer["default_root_dir"] = trainer["default_root_dir"] or str(self.folder)
        text = yaml.safe_dump(self.saved_config, sort_keys=False)
        origin = resume.run_directory_of(self.checkpoint).resolve() if self.checkpoint else None
        continues = origin == self.folder.resolve() or (bool(origin) and self.settings.resume == "auto")
        names = {"project": "wandb_project", "mode": "wandb", "trackio": "trackio"}
        trackers = {name: self.settings[key] for name, key in names.items()} | {"config": self.saved_config}
        make_loggers = partial(loggers, self.folder, **trackers) if own_loggers else None
        self.run_directory = RunDirectory(self.folder, text, make_loggers, continues)
        if self.settings.dry_run:
            self._scratch = tempfile.TemporaryDirectory()
            self.run_directory = DryRun(self.folder)
            callbacks = [c for c in callbacks if not isinstance(c, ProgressBar)]
            trainer.update(fast_dev_run=2, logger=False, default_root_dir=self._scratch.name)
            trainer.update(rehearsal(trainer, self.ranks))
        for callback in callbacks:
            if isinstance(callback, ModelCheckpoint) and (callback.dirpath is None or self.settings.dry_run):
                callback.dirpath = str(Path(trainer["default_root_dir"], "checkpoints"))
        for flag, kind in (("enable_progress_bar", ProgressBar), ("enable_checkpointing", Checkpoint)):
            if not any(isinstance(c, kind) for c in callbacks):
                trainer[flag] = False  # else Lightning adds one of its own
        first = [OptimizerOptions(), self.run_directory, MonitoredMetrics(), FinishedEpochs()]
        return self._instantiate_trainer(trainer, [*first, *callbacks, AccumulationWindows()])

    def _run_subcommand(self, subcommand: str) -> None:
        """Nothing yet: `run` follows once everything has been built."""

    def run(self) -> None:
        """Do what the subcommand says."""
        silence_lightning(self.trainer)
        self.watch = RankWatch(self.trainer, self.folder)
        self.watch.start()
        parts = (self.trainer, self.model, self.datamodule)
        with values_named(self.settings):
            if self.subcommand != "fit":
                run_stages.evaluate(self.trainer, self.subcommand, self._prepare_subcommand_kwargs(self.subcommand))
            elif self.settings.dry_run:
                with self._scratch:
                    run_stages.rehearse(*parts, self.run_directory, self.settings.test_after_fit)
            else:
                run_stages.fit(*parts, self.folder, self.checkpoint, self.settings.test_after_fit)
