"""Mistakes in a config or on the command line, said in one line that names the key and its nearest valid neighbour."""

import inspect
import os
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from commands import config_text
from commands.config_keys import ON_THE_COMMAND_LINE, Configs, flatten, nearest, sections, unknown, where
from commands.group_errors import option_of_a_group, without_group
from commands.moved_paths import new_path
from commands.option_groups import arguments_of, no_group
from commands.packaged_files import config_names
from commands.trusted_code import imported, refusal
from commands.weight_mismatch import describe_misfit
from fewstep.one_line import one_line


def read_configs(files: Iterable[str | Path]) -> dict[str, dict[str, Any]]:
    """Raw content of YAML files by name; FileNotFoundError or ValueError in one line for one that cannot be read."""
    configs = {}
    for file in files:
        if not Path(file).is_file():
            beside, ours = [str(other) for other in Path(file).parent.glob("*.yaml")], config_names(str(file))
            near = nearest(str(file), beside if Path(file).parent.is_dir() else ours)
            near = near or next((name for name in ours if Path(name).name == str(file)), None)  # without its method
            raise FileNotFoundError(f"config {file} does not exist{f'; nearest file: {near!r}' if near else ''}")
        try:
            content = config_text.read(Path(file).read_text())
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"config {file} is not valid YAML: {one_line(str(error))}") from error
        except ValueError as error:
            raise ValueError(f"config {file}: {error}") from error
        if not isinstance(content, dict):
            raise ValueError(f"config {file} must hold keys and values, found {type(content).__name__}")
        configs[str(file)] = content
    return configs


def explain(message: str, parser: ArgumentParser, configs: Configs, argv: Sequence[str]) -> str:
    """One line for a parser error message of jsonargparse, `parser` being that of the subcommand.

    Keys of the command line stand there as they can be pasted, those of a file as they lie in it, with `init_args`.
    """
    line = _explain(message, parser, configs, argv)
    return line.replace(".init_args.", ".") if line.endswith(ON_THE_COMMAND_LINE) else line


def _explain(message: str, parser: ArgumentParser, configs: Configs, argv: Sequence[str]) -> str:
    chain = re.findall(r'Parser key "([^"]+)"', message)
    key = ".init_args.".join(chain)
    class_paths = re.findall(r"Problem with given class_path '([^']+)'", message)
    if class_paths and (option := option_of_a_group(message)):
        return _wrong_option(key, option, class_paths[-1], configs, argv)
    if found := re.search(r"does not accept option '([^']+)'", message):
        return unknown(found[1], _keys(parser), configs, argv)
    if found := re.search(r"unrecognized arguments: (\S+)", message):
        key = found[1].lstrip("-").split("=")[0]
        if not found[1].startswith("--"):
            return f"unexpected argument {found[1]!r} on the command line"
        return unknown(key, _keys(parser), configs, argv)
    if fault := re.search(r"the key '.+' stands twice, in lines \d+ and \d+; keep one of them", message):
        return _with_file(fault[0], configs, argv)
    if class_paths and (found := re.search(r'Parser key "([^"]+)": Unable to load config "([^"]*)"', message)):
        key = ".".join(chain[:-1])  # the parser names the group twice
        return no_group(key, found[2], class_paths[-1]) + where(key, configs, argv, found[2])
    if denied := re.search(r"Importing '([^']+)' is not allowed", message):
        why = _denied(denied[1], class_paths[-1] if class_paths else "")
        return f"{key}: {why}{where(key, configs, argv, class_paths[-1] if class_paths else '')}" if key else why
    if options := re.findall(r"Option '([^']+)' is not accepted", message):
        return _wrong_option(key, options[-1], class_paths[-1], configs, argv)
    if (found := re.search(r"does not correspond to a subclass of (\w+)", message)) and not class_paths:
        return f"{key}: the class is not a {found[1]}{where(key, configs, argv)}"
    if found := re.search(r"(No module named \S+|module '\S+' has no attribute '\S+')", message):
        if class_paths and (moved := new_path(class_paths[-1])):
            place = where(f"{key}.class_path", configs, argv)
            return f"{key}.class_path: {class_paths[-1]} is {moved} now; write that{place}"
        near = nearest(class_paths[-1], _classes(class_paths[-1])) if class_paths else None
        hint = f"; nearest class: {near!r}" if near else ""
        return f"{key}.class_path: {found[1]}{hint}{where(f'{key}.class_path', configs, argv)}"
    if found := re.search(r"arguments are required: ([^\s,]+)", message):
        if chain:
            return f"{key}.init_args.{found[1]} is required{where(key, configs, argv)}"
        missing = found[1].split(".", 1)[-1]
        return f"no {missing} is given; choose a run with -c configs/METHOD/RUN.yaml or add --{missing} CLASS"
    reason = _reason(message)
    if found := re.fullmatch(r"Key must be a string, got: (.+)\.", reason):
        files = [
            f" (in {name})" for name, c in configs.items() if found[1] in re.split(r"[.\n]", "\n".join(flatten(c)))
        ]
        return f"the key {found[1]} is not a name; write KEY: VALUE with a key that --help lists{(files or [''])[-1]}"
    given = re.search(r"; got '(.+)'$|, got '(.+?)'", reason)
    return f"{key}: {reason}{where(key, configs, argv, (given[1] or given[2]) if given else '')}" if key else reason


def _reason(message: str) -> str:
    """The part of a parser's message that says what is wrong, without types of Python and echoed values."""
    last = message.rsplit('Parser key "', 1)[-1]
    tail = last.split("Given value")[0]
    tail = tail.split("Errors:")[-1] if "Errors:" in tail else re.sub(r'^[\w.]+":', "", tail)
    faults = [one_line(f) for f in re.split(r"\n\s*- ", tail) if f.strip() and "NoneType" not in f]
    text = "; ".join(faults)
    text = re.sub(r"Expected an? (?:<class '([^']+)'>|typing\.Literal\[([^\]]*)\])", r"expected \1\2", text)
    text = re.sub(r"Expected an? (tuple with)", r"expected \1", text)
    text = text.replace("expected collections.abc.Sequence", "expected list")
    text = re.sub(r"\. Got value: ?(\S*)", r", got '\1'", text)
    given = re.findall(r"Given value: (.{1,40})$", last.strip(), re.MULTILINE)  # the first is that of this key
    return one_line(text if "got" in text or not given or "(" in given[0] else f"{text}; got '{given[0]}'")


def _with_file(fault: str, configs: Configs, argv: Sequence[str]) -> str:
    """A fault in the text of a config and the file that has it, named on the command line or in another config."""
    named = [part for word in argv for part in word.split("=", 1)]
    named += re.findall(r"[^\s'\"]+\.(?:ya?ml|json)\b", "\n".join(map(str, configs.values())))
    for file in filter(os.path.isfile, named):
        try:
            config_text.check(Path(file).read_text())
        except ValueError as error:
            if str(error) == fault:
                return f"config {file}: {fault}"
    return fault + ON_THE_COMMAND_LINE


def _denied(path: str, given: str) -> str:
    """`path` may be where the object is defined, not what the config says: torch.os.system is posix.system."""
    if given != path and given.rpartition(".")[2] == path.rpartition(".")[2]:
        return f"{given!r} leads to another module: {refusal(path)}"
    return refusal(path)


def _wrong_option(key: str, option: str, class_path: str, configs: Configs, argv: Sequence[str]) -> str:
    known, option = arguments_of(class_path), option.removeprefix("init_args.")
    if is_dataclass(imported(class_path)):
        return unknown(f"{key}.{option}", [f"{key}.{name}" for name in known], configs, argv)
    if line := without_group(key, option, known, configs, argv):
        return line
    valid = [f"{key}.init_args.{name}" for name in known]
    head = option.split(".")[0]
    if f"{key}.{head}" in {k for content in configs.values() for k in flatten(content)}:
        return unknown(f"{key}.{head}", [f"{key}.init_args", f"{key}.class_path", *valid], configs, argv)
    if not _chosen(class_path, configs, argv):  # the base class, standing in for a missing class_path
        near = nearest(key, [k for k in sections(configs) if k != key])
        hint = f"; nearest key with one: {near!r}" if near else ""
        return f"{key} has no class_path{hint}{where(key, configs, argv)}"
    return unknown(f"{key}.init_args.{option}", valid, configs, argv)


def _chosen(class_path: str, configs: Configs, argv: Sequence[str]) -> bool:
    """Whether a config or the command line names this class."""
    name = class_path.rpartition(".")[2]
    words = [*argv, *(yaml.safe_dump(content) for content in configs.values())]
    return any(re.search(rf"\b{re.escape(name)}\b", word) for word in words)


def _keys(parser: ArgumentParser) -> list[str]:
    return [a.dest for a in parser._actions if a.dest.rpartition(".")[2] not in ("help", "print_config")]


def _classes(class_path: str) -> list[str]:
    """Import paths of the classes in the module that a mistyped class path names, or in this project's packages."""
    module = class_path.rpartition(".")[0]
    places = [module] if module in sys.modules else ["lightning_modules", "datamodules", "callbacks"]
    return [f"{m}.{n}" for m in places for n, _ in inspect.getmembers(sys.modules.get(m), inspect.isclass)]


def say_error(error: Exception) -> str:
    """An exception's message on one line; for weights that do not fit, how many and which."""
    text = str(error)
    if "loading state_dict" in text:
        return describe_misfit(text)
    if "Does not validate against any" in text:  # jsonargparse wraps what a constructor raises
        return _reason(text)
    return one_line(error, 10**6)
