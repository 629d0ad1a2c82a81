"""`fewstep COMMAND`: train.py, evaluate.py and the packages that are run with `python -m`, under one name.

Help and mistakes in the first word need neither torch nor Lightning.
"""

import importlib.util
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

from commands.config_keys import nearest
from commands.packaged_files import ROOT, config_names
from commands.train.start import end_at_signals
from fewstep.installed_command import in_its_words

PACKAGES = {
    "prepare": ("datamodules.prepare", "pictures, tables and drawings as the shards that are trained on"),
    "icd": ("fewstep.icd", "generate, invert and edit with an exported pair of students"),
    "collaboration": ("fewstep.collaboration", "draft, judge and repair pictures with a student and its teacher"),
    "fast_edit": ("fewstep.fast_edit", "learn an edit from two texts, apply, mix and audit it"),
    "demo": ("fewstep.demo", "a page in the browser for exported students"),
}
OTHERS = "\n\ncommands with options of their own: COMMAND --help\n{}"
OPTION = "--print_completion"  # its module imports the parsers of all commands
VERSION = "  --version                print the version"
CONFIGS = "\nconfigs that come along, for -c\n{}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (without the program's name), that of the process if None; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    word = words[0] if words else "--help"
    if word.partition("=")[0] == OPTION:
        from commands.program.completion import print_completion

        return print_completion(words, trained(script("train")), PACKAGES)
    if word in PACKAGES:
        return import_module(f"{PACKAGES[word][0]}.__main__").main(words[1:])
    if word == "evaluate":
        return script("evaluate").main(words[1:])
    train = script("train")
    if word in ("-h", "--help"):
        print(usage(train))
        return 0
    known = [*trained(train), "evaluate", *PACKAGES]
    if not word.startswith("-") and word not in known:
        near = nearest(word, known)
        remedy = f"nearest: {near!r}" if near else f"choose {', '.join(known)}"
        return _mistake(f"unknown command {word!r}; {remedy}")
    if argv is None:
        end_at_signals()
    return train.main(argv)


def script(name: str) -> ModuleType:
    """train.py or evaluate.py, which a wheel holds beside its configs."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def usage(train: ModuleType) -> str:
    """That of train.py, with the other commands, and the names of the configs."""
    others = {"evaluate": "measure runs and pipelines: a table, metrics.json and a report with plots"}
    others |= {word: purpose for word, (_, purpose) in PACKAGES.items()}
    listed = "\n".join(f"  {word:15}{purpose}" for word, purpose in others.items())
    methods: dict[str, list[str]] = {}
    for name in config_names():
        methods.setdefault(name.split("/")[0], []).append(name.split("/")[1])
    configs = "\n".join(f"  {method:24}{' '.join(runs)}" for method, runs in methods.items())
    text = train.__doc__.replace(commands_of(train), commands_of(train) + OTHERS.format(listed))
    text = text.replace(VERSION, f"{VERSION}\n  {OPTION} bash  print the script by which bash, or zsh, completes")
    return in_its_words(text + CONFIGS.format(configs))


def trained(train: ModuleType) -> dict[str, str]:
    """The commands of train.py with their purposes."""
    return dict(line.split(maxsplit=1) for line in commands_of(train).splitlines())


def commands_of(train: ModuleType) -> str:
    """The lines about them in the usage of train.py."""
    return train.__doc__.partition("\ncommands\n")[2].partition("\n\n")[0]


def _mistake(line: str) -> int:
    print(f"error: {line}", file=sys.stderr)
    return 2
