"""`fewstep --print_completion bash|zsh`: the script by which a shell completes commands, options, keys and configs.

The keys of a model and its data depend on the config; offered are those that the configs that come along set.
"""

import argparse
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any, Literal, get_args, get_origin

from commands.config_errors import read_configs
from commands.config_keys import flatten
from commands.packaged_files import ROOT, config_names
from commands.program.main import OPTION

Option = tuple[list[str], list[str] | None]  # its names, its choices
SHELLS = ("bash", "zsh")
CONFIG = "_fewstep_config"  # the shell's function for -c
CONFIGS = {
    "bash": CONFIG + '() {{ compgen -W "{}" -- "$1"; compgen -f -- "$1"; }}',
    "zsh": CONFIG + "() {{ _alternative 'configs:config:({})' 'files:file:_files' }}",
}
FILE = {"bash": "_shtab_compgen_files", "zsh": "_files"}
COMPLETE = {"-c": dict.fromkeys(SHELLS, CONFIG), "--run_dir": {"bash": "_shtab_compgen_dirs", "zsh": "_files -/"}}
OF_EXPORT: list[Option] = [(["--run_dir"], None), (["--ckpt_path"], None)]
COMPLETE |= {"--resume": FILE, "--ckpt_path": FILE}


def print_completion(words: list[str], trained: Mapping[str, str], packages: Mapping[str, tuple[str, str]]) -> int:
    """Answer OPTION SHELL; returns the exit code, 2 after one line for another shell.

    trained: purposes of the commands of train.py by name. packages: module and purpose of those that have a parser.
    """
    name = words[0].partition("=")[2] or "".join(words[1:2])
    shell = name.removeprefix("shtab-")  # as jsonargparse calls them
    if shell not in SHELLS:
        print(f"error: {OPTION} {name!r}: choose {' or '.join(SHELLS)}", file=sys.stderr)
        return 2
    import shtab

    functions = CONFIGS[shell].format(" ".join(config_names()))
    print(shtab.complete(whole_parser(trained, packages), shell, preamble={shell: functions}))
    return 0


def whole_parser(trained: Mapping[str, str], packages: Mapping[str, tuple[str, str]]) -> argparse.ArgumentParser:
    """All words of the command, in one parser that is only looked at."""
    from commands.evaluate.arguments import parser as evaluate

    root = argparse.ArgumentParser("fewstep")
    root.add_argument("--version", action="store_true", help="print the version")
    root.add_argument(OPTION, choices=SHELLS, help="print a script for the shell's completion")
    commands = root.add_subparsers()
    actions, keys = training_options(), config_keys()
    for name, purpose in trained.items():
        command = commands.add_parser(name, help=purpose)
        for names, choices in actions + keys if name != "export" else OF_EXPORT:
            action = command.add_argument(*names, choices=choices)
            if names[0] in COMPLETE:
                action.complete = COMPLETE[names[0]]  # type: ignore[attr-defined]  # shtab's
    others = {"evaluate": (evaluate(""), "measure runs and pipelines")}
    others |= {name: (import_module(f"{m}.__main__").parser(), purpose) for name, (m, purpose) in packages.items()}
    for name, (parser, purpose) in others.items():
        commands.add_parser(name, help=purpose, parents=[parser], add_help=False, conflict_handler="resolve")
    return root


def training_options() -> list[Option]:
    """(names, choices) of the options that every training has: those of the program and of Lightning's Trainer."""
    from lightning.pytorch import Trainer

    from commands.train.parser import WholeNamesParser, add_own_options

    parser = WholeNamesParser()
    parser.add_argument("-c", "--config")
    parser.add_argument("--ckpt_path")
    parser.add_argument("--seed_everything")
    parser.add_argument("--trust")
    parser.add_argument("--print_config", action="store_true")
    add_own_options(parser)
    parser.add_class_arguments(Trainer, "trainer")
    actions = [action for action in parser._actions if action.option_strings and "-h" not in action.option_strings]
    return [(list(action.option_strings), _choices(action)) for action in actions]


def config_keys() -> list[Option]:
    """Those of model, data and callbacks that the configs set."""
    contents = read_configs([str(ROOT / "configs" / f"{name}.yaml") for name in config_names()]).values()
    found = {key.replace(".init_args", "") for content in contents for key in flatten(content)}
    return [([f"--{key}"], None) for key in sorted(found) if key.startswith(("model.", "data.", "callbacks."))]


def _choices(action: Any) -> list[str] | None:
    """Those of a Literal, true and false of a bool."""
    kind = getattr(action, "_typehint", None)
    if kind is bool:
        return ["true", "false"]
    return [str(value) for value in get_args(kind)] if get_origin(kind) is Literal else None
