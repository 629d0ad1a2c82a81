"""A first look at the command line: what decides how the parser itself is built."""

import argparse
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from callbacks.checkpoints.printed_commands import resume_flags
from callbacks.checkpoints.remote import is_remote
from commands.config_errors import read_configs
from commands.config_keys import flatten, nearest
from commands.nearest_runs import is_run, named, nearest_runs
from commands.packaged_files import config_file
from commands.train.adopted_config import refuse_foreign_folder
from commands.train.resume import run_directory_of
from fewstep.files.local_paths import local_path

PLACES = dict.fromkeys(("--run_dir", "--resume", "--ckpt_path"), local_path)
PLACES |= dict.fromkeys(("-c", "--config"), config_file)


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


def with_local_paths(argv: Sequence[str]) -> list[str]:
    """The arguments, with what PLACES name as the paths that are meant; ValueError for what cannot be one."""
    found = list(argv)
    for place, argument in enumerate(argv):
        option, equals, value = argument.partition("=")
        if option in PLACES and equals:
            found[place] = f"{option}={PLACES[option](value)}"
        elif option in PLACES and place + 1 < len(argv):
            found[place + 1] = PLACES[option](argv[place + 1])
    return found


def with_saved_config(argv: list[str]) -> list[str]:
    """A resumed run without -c uses the config that it saved; ValueError in one line where there is none."""
    given = scan(argv)
    if given.resume is None:
        _refuse_nameless(argv, given)
    if given.config or given.resume is None:
        return argv
    folder = given.run_dir or (None if given.resume == "auto" else run_directory_of(Path(given.resume)))
    saved = Path(folder or "") / "config.yaml"
    if folder and saved.is_file():
        refuse_foreign_folder(saved)
        return [argv[0], "-c", str(saved), *argv[1:]]
    if argv[0] == "fit" and not _names_model(argv) and not {"-h", "--help"} & set(argv):
        raise ValueError(_nothing_to_resume(given, folder))
    return argv


def _refuse_nameless(argv: Sequence[str], given: argparse.Namespace) -> None:
    """ValueError in one line for a run that is to be measured, but is given as the folder to write to only."""
    place = given.run_dir or (given.ckpt_path and run_directory_of(Path(given.ckpt_path)))
    if argv[0] not in ("validate", "test") or given.config or _names_model(argv) or {"-h", "--help"} & set(argv):
        return
    if place and (Path(place) / "config.yaml").is_file():
        checkpoint = given.ckpt_path or Path(place) / "checkpoints" / "best.ckpt"
        flags = f"-c {quote(str(Path(place) / 'config.yaml'))} --ckpt_path {quote(str(checkpoint))}"
        raise ValueError(f"{argv[0]} needs the config of the run and a checkpoint: {argv[0]} {flags}")


def _nothing_to_resume(given: argparse.Namespace, folder: str | Path | None) -> str:
    if folder is None:
        return f"--resume auto cannot know which run you mean; add --run_dir RUN{named(nearest_runs(Path('runs')))}"
    if given.resume == "auto" and is_run(Path(folder)):
        return f"{Path(folder) / 'config.yaml'} does not exist; add -c with the config of this run"
    if given.resume == "auto":
        near = named(nearest_runs(Path(folder)))
        return f"--run_dir {folder} is not a run, it has no config.yaml{near}; a new run begins with -c METHOD/RUN.yaml"
    if is_remote(given.resume):
        return f"--resume {given.resume} comes without a config; add -c with the run's own"
    if Path(given.resume).is_dir():
        return f"--resume {given.resume} is a folder; use {resume_flags(given.resume)}"
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
    """Names of all callbacks that a config or the command line gives a class.

    ValueError in one line for one that is switched off or has options, but that nothing gives a class.
    """
    named = [(key, value, file) for file, content in configs.items() for key, value in _callbacks(content, file)]
    named += [(key, value, None) for key, value in _callback_arguments(argv)]
    for key in {key for key, value, file in named if file is None and value is None}:
        if others := [word for word in argv if word.startswith(f"--callbacks.{key}.")]:
            raise ValueError(
                f"callbacks.{key} is null and has options ({others[0].split('=')[0]}); drop one of the two"
            )
    known = [f"callbacks.{key}" for key, value, _ in named if _has_class(value)]
    for name, value, file in [(f"callbacks.{key}", value, file) for key, value, file in named]:
        if name not in known and not (value is None and file and _is_saved(configs[file])):
            fault, what = ("has no class_path", "key with one") if value is not None else ("is unknown", "valid key")
            near = nearest(name, known)
            hint = f"; nearest {what}: {near!r}" if near else ""
            raise ValueError(f"{name} {fault}{hint} ({f'in {file}' if file else 'on the command line'})")
    return list(dict.fromkeys(key for key, _, _ in named))


def _callbacks(content: Mapping[str, Any], file: str) -> Iterator[tuple[str, Any]]:
    """(name, what stands there) of the callbacks of a config; a name may be part of a key with dots."""
    for key, value in content.items():
        if key == "callbacks" and not isinstance(value, Mapping):
            raise ValueError(f"callbacks in {file} must be NAME: {{class_path: ...}}; NAME: null switches one off")
        if key == "callbacks":
            yield from (_undotted(str(name), entry) for name, entry in value.items())
        elif str(key).startswith("callbacks."):
            yield _undotted(key.removeprefix("callbacks."), value)


def _undotted(name: str, value: Any) -> tuple[str, Any]:
    head, _, rest = name.partition(".")
    return (head, {rest: value}) if rest else (head, value)


def _has_class(entry: Any) -> bool:
    return isinstance(entry, str) or (isinstance(entry, Mapping) and entry.get("class_path") is not None)


def _callback_arguments(argv: Sequence[str]) -> Iterator[tuple[str, Any]]:
    for number, word in enumerate(argv):
        if found := re.fullmatch(r"--callbacks\.(\w+)(?:\.class_path)?(?:=(.*))?", word, re.DOTALL):
            text = found[2] if found[2] is not None else "".join(argv[number + 1 : number + 2])
            yield found[1], None if text.strip() in ("null", "~", "") else text


def _is_saved(content: Mapping[str, Any]) -> bool:
    """Whether a run has written this config: with all keys, switched off callbacks without their class among them."""
    return {"num_threads", "test_after_fit", "wandb_project"} <= content.keys()
