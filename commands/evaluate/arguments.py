"""The command line of evaluate.py; reading it needs neither torch nor Lightning."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from commands.packaged_files import config_file
from fewstep.files.local_paths import local_path
from fewstep.installed_command import in_its_words

# What the samples depend on, and therefore what a broken-off evaluation must be continued with.
OF_THE_SAMPLES = ("checkpoint", "config", "data", "prompts", "num_samples", "steps", "guidance_scale", "seed")
LEAST_DRAWS = 40  # of which the second lowest and the second highest are the ends of the interval


def parse(argv: Sequence[str], description: str) -> tuple[argparse.Namespace, list[str]]:
    """(arguments, the words that are none: options of metrics)."""
    return parser(description).parse_known_args(argv)


def parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        in_its_words("python evaluate.py").removeprefix("python "),
        description=in_its_words(description),
        formatter_class=argparse.RawTextHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "checkpoint",
        nargs="+",
        type=path,
        metavar="CKPT",
        help="checkpoint; run directory: its best checkpoint, else the last; or folder of a\n"
        f"diffusers pipeline, or that `{in_its_words('python -m fewstep.collaboration draw')}` has filled",
    )
    add(
        "--out", type=path, required=True, metavar="DIR", help="receives metrics.json, report.md, report.html, pictures"
    )
    add("--config", type=config, metavar="C", help="config with the model and the data; RUN/config.yaml if not given")
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
    add("--guidance-scale", type=scale, metavar="W", help="1 is unguided; the model's own if not given")
    add("--seed", type=seed, default=0, help="of intervals, noise and the global random generators (0)")
    add("--devices", type=positive, default=1, help="processes that share the test data (1)")
    add("--bootstrap", type=draws, default=1000, help="resamples behind the 95%% interval of a mean (1000)")
    add("--trust", action="append", metavar="PACKAGE", help="let the config name classes of this package; repeatable")
    add(
        "--wandb",
        choices=("offline", "online", "disabled"),
        default="disabled",
        help="record table, curves and fronts below OUT/wandb, and online on a server, too (disabled)",
    )
    add(
        "--trackio",
        choices=("local", "disabled"),
        default="disabled",
        help="record the table in Trackio's dashboard of this machine, too (disabled)",
    )
    add("--wandb-project", default="fewstep", metavar="NAME", help="project in Weights & Biases and Trackio (fewstep)")
    add("--overwrite", action="store_true", help="replace a report about other checkpoints, drop another's OUT/partial")
    return parser


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


def config(text: str) -> Path:
    return Path(config_file(place(text)))


def seed(text: str) -> int:
    if not text.isdigit() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to {2**32 - 1}")
    return int(text)


def scale(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0; 1 is unguided")
    return value


def positive(text: str) -> int:
    digits = text.lstrip("0")
    if not text.isdecimal() or not digits:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    if len(digits) > 9:
        raise argparse.ArgumentTypeError(f"{text[:40]} is more than 999,999,999")
    return int(digits)


def draws(text: str) -> int:
    if positive(text) < LEAST_DRAWS:
        raise argparse.ArgumentTypeError(f"{text} resamples make no 95 % interval; give {LEAST_DRAWS} or more")
    return int(text)
