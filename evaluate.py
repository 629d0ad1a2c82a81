"""Measure trained checkpoints or diffusers pipelines on test data: a table, metrics.json and a report with plots.

examples
  python evaluate.py runs/weather/ID --out runs/weather/ID/evaluation
  python evaluate.py runs/weather/A runs/weather/B/checkpoints/last.ckpt --out comparison
  python evaluate.py runs/emoji/ID --metrics fid kid clip_score --num-samples 2000 --out quality
  python evaluate.py some/pipeline --data data/emoji64 --metrics kid clip_score --steps 1 2 4 8 --out by_steps
  python evaluate.py some/pipeline --prompts prompts.txt --metrics image_reward --devices 2 --out rewards
  python evaluate.py runs/teacher/ID --prompts prompts.txt --metrics clip_score --steps 4 16 64 --out by_steps

options of a metric, as its class in callbacks/ has them
  --metrics.kid.subset_size 100
  --metrics.fid.network fewstep.metrics.features.FIDInception --metrics.fid.network.weights FILE

The same command again goes on where a broken one stopped (OUT/partial); metrics and batch size may be changed.
"""

import argparse
import functools
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fewstep.files.local_paths import local_path

# What the samples depend on, and therefore what a broken-off evaluation must be continued with.
OF_THE_SAMPLES = ("checkpoint", "config", "data", "prompts", "num_samples", "steps", "guidance_scale", "seed")

if TYPE_CHECKING:
    from commands.evaluate.build import Built

Job = tuple[Path, Path, int | None]  # checkpoint and config, or pipeline and its index; inference steps


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        "evaluate.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add(
        "checkpoint",
        nargs="+",
        type=path,
        metavar="CKPT",
        help="checkpoint; run directory: its best checkpoint, else the last; or folder of a diffusers pipeline",
    )
    add(
        "--out", type=path, required=True, metavar="DIR", help="receives metrics.json, report.md, report.html, pictures"
    )
    add("--config", type=path, metavar="C", help="config with the model and the data; RUN/config.yaml if not given")
    add("--metrics", nargs="+", metavar="NAME", help="such as fid clip_score; if not given, those of the run's config")
    add(
        "--data",
        type=place,
        metavar="FOLDER",
        help="other test data than the config's; for a pipeline, captioned images",
    )
    add("--prompts", type=path, metavar="FILE", help="prompts, one per line, in the place of test data")
    add("--num-samples", type=positive, metavar="N", help="use so many test samples; all if not given")
    add("--batch-size", type=positive, metavar="N", help="samples per step and process")
    add("--steps", type=positive, nargs="+", metavar="N", help="inference steps; several are compared")
    add("--guidance-scale", type=float, metavar="W", help="1 is unguided; the model's own if not given")
    add("--seed", type=seed, default=0, help="of intervals, noise and the global random generators (0)")
    add("--devices", type=positive, default=1, help="processes that share the test data (1)")
    add("--bootstrap", type=positive, default=1000, help="resamples behind the 95%% interval of a mean (1000)")
    add("--trust", action="append", metavar="PACKAGE", help="let the config name classes of this package; repeatable")
    add("--overwrite", action="store_true", help="replace a report about other checkpoints, drop another's OUT/partial")
    return parser.parse_known_args(argv)


def place(text: str) -> str:
    """A path or an address; ~ and file:// as the path that is meant."""
    if not text:
        raise argparse.ArgumentTypeError("an empty text names no file or folder")
    try:
        return local_path(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def path(text: str) -> Path:
    return Path(place(text))


def seed(text: str) -> int:
    if not text.isdigit() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to {2**32 - 1}")
    return int(text)


def positive(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def list_jobs(args: argparse.Namespace) -> list[Job]:
    """The runs to measure. Errors: one line."""
    from commands.evaluate.build import locate
    from commands.evaluate.pipeline import is_pipeline

    found = [locate(given, args.config) for given in args.checkpoint]
    return [
        (file, config, steps) for file, config in found for steps in args.steps or [50 if is_pipeline(file) else None]
    ]


def build_all(args: argparse.Namespace, words: list[str], jobs: list[Job]) -> "list[Built]":
    """Models, data and metrics of all runs. Errors: one line."""
    from commands.evaluate.build import Options, build, build_pipeline
    from commands.evaluate.metrics_by_name import check_names, read_options
    from commands.evaluate.pipeline import is_pipeline
    from datamodules import ImageTextDataModule
    from fewstep.backbones import load_pipeline

    given = read_options(words)
    check_names(args.metrics or (), given)
    own = {name: getattr(args, name) for name in Options._fields if name != "metric_options"}
    options = Options(**own | {"metrics": args.metrics or ()}, metric_options=given)
    load = functools.cache(load_pipeline)  # once for all its steps
    return [
        build_pipeline(file, load(file), steps or 50, options, ImageTextDataModule)
        if is_pipeline(file)
        else build(file, config, steps, options)
        for file, config, steps in jobs
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write, print; returns 0, or 2 after one line on stderr and with no report written."""
    argv = list(sys.argv[1:] if argv is None else argv)
    args, options = parse(argv)
    # Where a config gives a class's name without its package, it resolves among those that are imported.
    import datamodules  # noqa: F401
    import lightning_modules  # noqa: F401
    from commands.evaluate.measure import check_devices, measure
    from commands.evaluate.partial import Partial
    from commands.evaluate.pipeline import PipelineModule
    from commands.evaluate.replay import keep_outputs
    from commands.process import quiet
    from commands.process_group import leave_process_group
    from commands.report import write as report
    from commands.trusted_code import take_trust

    quiet()
    command = shlex.join(["python", "evaluate.py", *argv])
    try:
        take_trust(argv)
        check_devices(args.devices)
        jobs = list_jobs(args)
        report.check_out(args.out, [str(file) for file, _, _ in jobs], args.overwrite)
        settings = {name: getattr(args, name) for name in OF_THE_SAMPLES}
        read = [file for job in jobs for file in job[:2]] + ([args.prompts] if args.prompts else [])
        partial = Partial(args.out, command, settings, read, [args.metrics, options, args.bootstrap])
        partial.check(args.overwrite)
        built = build_all(args, options, jobs)  # every one, before the first is measured
        finished = [partial.finished(number) for number in range(len(built))]  # asked before any process adds one
        measured = []
        for number, run in enumerate(built):
            if (result := finished[number]) is None:
                if isinstance(run.model, PipelineModule):
                    run.model.kept = partial.images(number)
                else:
                    keep_outputs(run.model, partial, number)
                result = measure(run, args.seed, args.devices, args.bootstrap)
                if result:  # in the first process only
                    partial.keep(number, *result)
            measured.append(result)
        if None not in measured:
            runs, pictures = [run for run, _ in measured], [picture for _, picture in measured]
            report.write(args.out, runs, pictures, command)
            partial.remove()
            report.print_table(runs)
            print(f"report  {args.out / 'report.html'}")
        leave_process_group()
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        from commands.evaluate.build import in_flags

        print(f"error: {' '.join(in_flags(str(error), vars(args)).split())[:800]}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
