"""A first look at the command line: what decides how the parser itself is built."""

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from callbacks.adopted_config import refuse_writes_outside
from callbacks.command_line_errors import flatten, read_configs
from callbacks.nearest_runs import named, nearest_runs
from callbacks.remote_checkpoint import is_remote
from callbacks.resume import run_directory_of


def scan(argv: Sequence[str]) -> argparse.Namespace:
    """The few arguments that decide how the parser is built."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("-c", "--config", action="append", default=[])
    parser.add_argument("--run_dir")
    parser.add_argument("--resume")
    parser.add_argument("--ckpt_path")
    try:
        return parser.parse_known_args(list(argv))[0]
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from error


def with_saved_config(argv: list[str]) -> list[str]:
    """A resumed run without -c uses the config that it saved; ValueError in one line where there is none."""
    given = scan(argv)
    if given.config or given.resume is None:
        return argv
    folder = given.run_dir or (None if given.resume == "auto" else run_directory_of(Path(given.resume)))
    saved = Path(folder or "") / "config.yaml"
    if folder and saved.is_file():
        refuse_writes_outside(*read_configs([saved]).values(), saved)
        return [argv[0], "-c", str(saved), *argv[1:]]
    if argv[0] == "fit" and not _names_model(argv) and not {"-h", "--help"} & set(argv):
        raise ValueError(_nothing_to_resume(given, folder))
    return argv


def _nothing_to_resume(given: argparse.Namespace, folder: str | Path | None) -> str:
    if folder is None:
        return f"--resume auto cannot know which run you mean; add --run_dir RUN{named(nearest_runs(Path('runs')))}"
    if given.resume == "auto":
        near = named(nearest_runs(Path(folder)))
        return f"--run_dir {folder} is not a run, it has no config.yaml{near}; a new run begins with -c METHOD/RUN.yaml"
    if is_remote(given.resume):
        return f"--resume {given.resume} comes without a config; add -c with the run's own"
    if Path(given.resume).is_dir():
        return f"--resume {given.resume} is a folder; use --resume auto --run_dir {given.resume}"
    if Path(given.resume).is_file():
        return f"{folder}/config.yaml does not exist; add -c with the config of the run that {given.resume} belongs to"
    return f"checkpoint {given.resume} does not exist{named(nearest_runs(run_directory_of(Path(given.resume))))}"


def _names_model(argv: Sequence[str]) -> bool:
    return any(re.match(r"--model(\.class_path)?(=|$)", argument) for argument in argv)


def with_saved_model(argv: list[str]) -> list[str]:
    """A prediction whose configs and flags name no model takes the one that the checkpoint's run has saved."""
    given = scan(argv)
    known = _names_model(argv)
    known = known or any("model.class_path" in flatten(content) for content in read_configs(given.config).values())
    if argv[:1] != ["predict"] or given.ckpt_path is None or known:
        return argv
    saved = run_directory_of(Path(given.ckpt_path)) / "config.yaml"
    if not Path(given.ckpt_path).is_file() or not saved.is_file():
        lacking = saved if Path(given.ckpt_path).is_file() else given.ckpt_path
        raise FileNotFoundError(
            f"{lacking} does not exist; give RUN/checkpoints/NAME.ckpt, or -c with the run's config"
        )
    (content,) = read_configs([saved]).values()
    return [argv[0], "--model", json.dumps(content.get("model")), *argv[1:]]


def callback_keys(configs: Mapping[str, Mapping[str, Any]], argv: Sequence[str]) -> list[str]:
    """Names of all callbacks that a config mentions, or that the command line gives a class."""
    names = {key: None for content in configs.values() for key in flatten(content) if key.startswith("callbacks.")}
    names |= {a[2:].split("=")[0]: None for a in argv if re.match(r"--callbacks\.\w+(\.class_path)?(=|$)", a)}
    return list(dict.fromkeys(name.split(".")[1] for name in names))
