"""A first look at the command line: what decides how the parser itself is built."""

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from callbacks.command_line_errors import flatten, read_configs
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
    """A resumed run without -c uses the config that it saved."""
    given = scan(argv)
    if given.config or given.resume is None:
        return argv
    folder = given.run_dir or (None if given.resume == "auto" else run_directory_of(Path(given.resume)))
    saved = Path(folder or "") / "config.yaml"
    return [argv[0], "-c", str(saved), *argv[1:]] if folder and saved.is_file() else argv


def with_saved_model(argv: list[str]) -> list[str]:
    """A prediction whose configs and flags name no model takes the one that the checkpoint's run has saved."""
    given = scan(argv)
    named = any(re.match(r"--model(\.class_path)?(=|$)", argument) for argument in argv)
    named = named or any("model.class_path" in flatten(content) for content in read_configs(given.config).values())
    if argv[:1] != ["predict"] or given.ckpt_path is None or named:
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
