"""One command line of evaluate.py: build everything, measure run by run, write the report."""

import argparse
import functools
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Where a config gives a class's name without its package, it resolves among those that are imported.
import datamodules
import lightning_modules  # noqa: F401
from callbacks.checkpoints.data_manifest import data_paths
from callbacks.tracking.trackio_logger import require_trackio
from commands.evaluate.arguments import OF_THE_SAMPLES
from commands.evaluate.build import Built, Options, build, build_drawn, build_pipeline, locate
from commands.evaluate.data_flags import in_flags
from commands.evaluate.drawn import is_drawn
from commands.evaluate.measure import check_devices, measure
from commands.evaluate.metrics_by_name import check_names, read_options
from commands.evaluate.partial import Partial, files_in
from commands.evaluate.pipeline import is_pipeline
from commands.process import leave_process_group, quiet
from commands.report import tracked
from commands.report import write as report
from commands.report.text import print_table
from commands.trusted_code import take_trust
from datamodules.remote import is_remote
from datamodules.shard_sources import shards_by_split
from fewstep.backbones import load_pipeline
from fewstep.installed_command import in_its_words
from fewstep.one_line import one_line, printable

Job = tuple[Path, Path, int | None]  # checkpoint and config, or pipeline and its index; inference steps


def run(argv: Sequence[str], args: argparse.Namespace, options: Sequence[str]) -> int:
    """Measure, write, print; returns 0, or 2 after one line on stderr and with no report written.

    args, options: what arguments.parse made of argv.
    """
    quiet()
    try:
        take_trust(argv)
        check_devices(args.devices)
        evaluate(args, options, shlex.join([*in_its_words("python evaluate.py").split(), *argv]))
        leave_process_group()
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        line = one_line(in_its_words(in_flags(one_line(error, 800), vars(args))), 800)
        print(f"error: {printable(line)}", file=sys.stderr)
        return 2
    return 0


def evaluate(args: argparse.Namespace, options: Sequence[str], command: str) -> None:
    """The first process writes the report. Errors: one line."""
    if args.trackio != "disabled":
        require_trackio()
    jobs = list_jobs(args)
    report.check_out(args.out, [str(file) for file, _, _ in jobs], args.overwrite)
    settings = {name: getattr(args, name) for name in OF_THE_SAMPLES}
    read = [file for job in jobs for file in job[:2]] + ([args.prompts] if args.prompts else [])
    built = build_all(args, options, jobs)  # every one, before the first is measured
    described, shards = data_read(built)
    metrics = [args.metrics, read_options(options), args.bootstrap]
    if not args.metrics:  # those of the configs, whose own texts are read files
        metrics += [str(file) for one in built for file in files_in(one.content.get("callbacks"))]
    partial = Partial(args.out, command, settings | {"read": described}, read + shards, metrics)
    partial.check(args.overwrite)
    finished = [partial.finished(number) for number in range(len(built))]  # asked before any process adds one
    measured = [finished[n] or measure_and_keep(one, n, partial, args) for n, one in enumerate(built)]
    if None not in measured:  # in the first process only
        runs, pictures = zip(*measured, strict=True)
        report.write(args.out, runs, pictures, command)
        partial.remove()
        print_table(runs)
        print(f"report  {args.out / 'report.html'}")
        if args.wandb != "disabled" and (upload := tracked.record(args.out, runs, args.wandb, args.wandb_project)):
            print(f"wandb   {upload}")
        if args.trackio != "disabled" and (show := tracked.record_locally(args.out, runs, args.wandb_project)):
            print(f"trackio {show}")


def list_jobs(args: argparse.Namespace) -> list[Job]:
    """The runs to measure. Errors: one line."""
    if twice := [steps for steps in args.steps or () if args.steps.count(steps) > 1]:
        raise ValueError(f"--steps {twice[0]} is given twice; name each number of steps once")
    found = [locate(given, args.config) for given in args.checkpoint]
    return [
        (file, config, steps) for file, config in found for steps in args.steps or [50 if is_pipeline(file) else None]
    ]


def build_all(args: argparse.Namespace, words: Sequence[str], jobs: list[Job]) -> list[Built]:
    """Models, data and metrics of all runs. Errors: one line."""
    given = read_options(words)
    check_names(args.metrics or (), given)
    own = {name: getattr(args, name) for name in Options._fields if name != "metric_options"}
    options = Options(**own | {"metrics": args.metrics or ()}, metric_options=given)
    load = functools.cache(load_pipeline)  # once for all its steps
    return [
        build_pipeline(file, load(file), steps or 50, options, datamodules.ImageTextDataModule)
        if is_pipeline(file)
        else build_drawn(file, steps, options)
        if is_drawn(file)
        else build(file, config, steps, options, adopted=args.config is None)
        for file, config, steps in jobs
    ]


def data_read(built: Sequence[Built]) -> tuple[dict[str, list[Any]], list[Path]]:
    """What tells the data of all runs from others: the entries of their shards in index.json, and the local shards."""
    described: dict[str, list[Any]] = {}
    files: list[Path] = []
    for source in (data_paths(one.data.hparams)[name] for one in built for name in ("path", "test_path")):
        if source is None or str(source) in described:
            continue
        try:
            shards = [shard for some in shards_by_split(source).values() for shard in some]
        except (ValueError, OSError, TypeError):  # the datamodule says what is wrong, or reads something else there
            files += [Path(str(part)) for part in (source if isinstance(source, list | tuple) else [source])]
            continue
        described[str(source)] = [list(shard) for shard in shards]
        files += [Path(shard.location) for shard in shards if not is_remote(shard.location)]
    return described, files


def measure_and_keep(
    one: Built, number: int, partial: Partial, args: argparse.Namespace
) -> tuple[dict[str, Any], bytes | None] | None:
    """The run and its picture, kept in OUT/partial as they come; None in all processes but the first."""
    one.model.kept = partial.of_run(number)
    if result := measure(one, args.seed, args.devices, args.bootstrap):
        partial.keep(number, *result)
    return result
