"""Mistakes in a config or on the command line, said in one line that names the key and its nearest valid neighbour."""

import difflib
import inspect
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from commands import config_text
from commands.moved_paths import new_path
from commands.option_groups import arguments_of, no_group, places_in_groups
from commands.trusted_code import imported, refusal
from commands.weight_mismatch import describe_misfit
from fewstep.one_line import one_line

Configs = Mapping[str, Mapping[str, Any]]  # file name -> its raw content


def read_configs(files: Iterable[str | Path]) -> dict[str, dict[str, Any]]:
    """Raw content of YAML files by name; FileNotFoundError or ValueError in one line for one that cannot be read."""
    configs = {}
    for file in files:
        if not Path(file).is_file():
            near = nearest(str(file), [str(p) for p in Path(file).parent.glob("*.yaml")])
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
    """One line for a parser error message of jsonargparse, `parser` being that of the subcommand."""
    chain = re.findall(r'Parser key "([^"]+)"', message)
    key = ".init_args.".join(chain)
    class_paths = re.findall(r"Problem with given class_path '([^']+)'", message)
    if class_paths and (option := _option_of_a_group(message)):
        return _wrong_option(key, option, class_paths[-1], configs, argv)
    if found := re.search(r"does not accept option '([^']+)'", message):
        return _unknown(found[1], _keys(parser), configs, argv)
    if found := re.search(r"unrecognized arguments: (\S+)", message):
        key = found[1].lstrip("-").split("=")[0]
        if not found[1].startswith("--"):
            return f"unexpected argument {found[1]!r} on the command line"
        return _unknown(key, _keys(parser), configs, argv)
    if fault := re.search(r"the key '.+' stands twice, in lines \d+ and \d+; keep one of them", message):
        return _with_file(fault[0], configs, argv)
    if class_paths and (found := re.search(r'Parser key "([^"]+)": Unable to load config "([^"]*)"', message)):
        key = ".".join(chain[:-1])  # the parser names the group twice
        return no_group(key, found[2], class_paths[-1]) + _place(key, configs, argv, found[2])
    if denied := re.search(r"Importing '([^']+)' is not allowed", message):
        why = _denied(denied[1], class_paths[-1] if class_paths else "")
        return f"{key}: {why}{_place(key, configs, argv, class_paths[-1] if class_paths else '')}" if key else why
    if options := re.findall(r"Option '([^']+)' is not accepted", message):
        return _wrong_option(key, options[-1], class_paths[-1], configs, argv)
    if (found := re.search(r"does not correspond to a subclass of (\w+)", message)) and not class_paths:
        return f"{key}: the class is not a {found[1]}{_place(key, configs, argv)}"
    if found := re.search(r"(No module named \S+|module '\S+' has no attribute '\S+')", message):
        if class_paths and (moved := new_path(class_paths[-1])):
            place = _place(f"{key}.class_path", configs, argv)
            return f"{key}.class_path: {class_paths[-1]} is {moved} now; write that{place}"
        near = nearest(class_paths[-1], _classes(class_paths[-1])) if class_paths else None
        hint = f"; nearest class: {near!r}" if near else ""
        return f"{key}.class_path: {found[1]}{hint}{_place(f'{key}.class_path', configs, argv)}"
    if found := re.search(r"arguments are required: ([^\s,]+)", message):
        if chain:
            return f"{key}.init_args.{found[1]} is required{_place(key, configs, argv)}"
        missing = found[1].split(".", 1)[-1]
        return f"no {missing} is given; choose a run with -c configs/METHOD/RUN.yaml or add --{missing} CLASS"
    reason = _reason(message)
    if found := re.fullmatch(r"Key must be a string, got: (.+)\.", reason):
        files = [
            f" (in {name})" for name, c in configs.items() if found[1] in re.split(r"[.\n]", "\n".join(flatten(c)))
        ]
        return f"the key {found[1]} is not a name; write KEY: VALUE with a key that --help lists{(files or [''])[-1]}"
    given = re.search(r"; got '(.+)'$|, got '(.+?)'", reason)
    return f"{key}: {reason}{_place(key, configs, argv, (given[1] or given[2]) if given else '')}" if key else reason


def _reason(message: str) -> str:
    """The part of a parser's message that says what is wrong, without types of Python and echoed values."""
    last = message.rsplit('Parser key "', 1)[-1]
    tail = last.split("Given value")[0]
    tail = tail.split("Errors:")[-1] if "Errors:" in tail else re.sub(r'^[\w.]+":', "", tail)
    faults = [one_line(f) for f in re.split(r"\n\s*- ", tail) if f.strip() and "NoneType" not in f]
    text = "; ".join(faults)
    text = re.sub(r"Expected an? (?:<class '([^']+)'>|typing\.Literal\[([^\]]*)\])", r"expected \1\2", text)
    text = re.sub(r"Expected an? (tuple with)", r"expected \1", text)
    text = re.sub(r"\. Got value: (\S+)", r", got '\1'", text)
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
    return f"{fault} (on the command line)"


def _denied(path: str, given: str) -> str:
    """`path` may be where the object is defined, not what the config says: torch.os.system is posix.system."""
    if given != path and given.rpartition(".")[2] == path.rpartition(".")[2]:
        return f"{given!r} leads to another module: {refusal(path)}"
    return refusal(path)


def _wrong_option(key: str, option: str, class_path: str, configs: Configs, argv: Sequence[str]) -> str:
    known, option = arguments_of(class_path), option.removeprefix("init_args.")
    if is_dataclass(imported(class_path)):
        return _unknown(f"{key}.{option}", [f"{key}.{name}" for name in known], configs, argv)
    if places_in_groups(option, known):
        return _without_group(key, option, known, configs, argv)
    valid = [f"{key}.init_args.{name}" for name in known]
    head = option.split(".")[0]
    if f"{key}.{head}" in {k for content in configs.values() for k in flatten(content)}:
        return _unknown(f"{key}.{head}", [f"{key}.init_args", f"{key}.class_path", *valid], configs, argv)
    if not _chosen(class_path, configs, argv):  # the base class, standing in for a missing class_path
        near = nearest(key, [k for k in _sections(configs) if k != key])
        hint = f"; nearest key with one: {near!r}" if near else ""
        return f"{key} has no class_path{hint}{_place(key, configs, argv)}"
    return _unknown(f"{key}.init_args.{option}", valid, configs, argv)


def _option_of_a_group(message: str) -> str | None:
    """GROUP.NAME of a setting that a group, in a config or on the command line, does not have."""
    if found := re.search(r"Group '([^']+)' does not accept option '([^']+)'", message):
        return found[2] if found[2].startswith(f"{found[1]}.") else f"{found[1]}.{found[2]}"
    found = re.search(r"unrecognized arguments: --([^\s=]+)", message)
    return found[1] if found else None


def _without_group(key: str, option: str, known: Sequence[str], configs: Configs, argv: Sequence[str]) -> str:
    """One line for an argument that stands in a group now, and all others of its section like it."""
    section = key.replace(".init_args", "")
    given = [name.removeprefix(f"{section}.") for name in _names(configs, argv) if name.startswith(f"{section}.")]
    places = {name: places_in_groups(name, known) for name in [option, *given] if name not in known}
    written = {name: " or ".join(f"{section}.{place}" for place in found) for name, found in places.items() if found}
    others = [f"{place} for {name}" for name, place in written.items() if name != option]
    likewise = f", likewise {', '.join(others)}" if others else ""
    place = _place(f"{section}.{option}", configs, argv)
    return f"unknown key '{section}.{option}'; write {written[option]}{likewise}{place}"


def _chosen(class_path: str, configs: Configs, argv: Sequence[str]) -> bool:
    """Whether a config or the command line names this class."""
    name = class_path.rpartition(".")[2]
    words = [*argv, *(yaml.safe_dump(content) for content in configs.values())]
    return any(re.search(rf"\b{re.escape(name)}\b", word) for word in words)


def _unknown(key: str, valid: Sequence[str], configs: Configs, argv: Sequence[str]) -> str:
    """One line for a key that does not exist, with the nearest one that does."""
    near = nearest(key, valid)
    hint = f"; nearest valid key: {near!r}" if near else ""
    return f"unknown key {key!r}{hint}{_place(key, configs, argv)}"


def nearest(word: str, candidates: Sequence[str]) -> str | None:
    """The candidate that a dotted key was probably meant to be."""
    # Compare leaf with leaf inside the same section first: a shared long prefix would make everything look alike.
    section, _, leaf = word.rpartition(".")
    siblings = {c.rpartition(".")[2]: c for c in candidates if c.rpartition(".")[0] == section}
    for pool, target in ((siblings, leaf), ({c: c for c in candidates}, word)):
        if match := difflib.get_close_matches(target, list(pool), n=1, cutoff=0.5):
            return pool[match[0]]
    return None


def _keys(parser: ArgumentParser) -> list[str]:
    return [a.dest for a in parser._actions if a.dest.rpartition(".")[2] not in ("help", "print_config")]


def _classes(class_path: str) -> list[str]:
    """Import paths of the classes in the module that a mistyped class path names, or in this project's packages."""
    module = class_path.rpartition(".")[0]
    places = [module] if module in sys.modules else ["lightning_modules", "datamodules", "callbacks"]
    return [f"{m}.{n}" for m in places for n, _ in inspect.getmembers(sys.modules.get(m), inspect.isclass)]


def flatten(content: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Dotted names of all keys of a nested mapping, sections included."""
    for key, value in content.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")


def _sections(configs: Configs) -> list[str]:
    suffix = ".class_path"
    return [k.removesuffix(suffix) for content in configs.values() for k in flatten(content) if k.endswith(suffix)]


def _names(configs: Configs, argv: Sequence[str]) -> list[str]:
    """Dotted names of all keys that are given, without `init_args`."""
    names = [name for content in configs.values() for name in flatten(content)]
    names += [word.lstrip("-").split("=")[0] for word in argv if word.startswith("--")]
    return [name.replace(".init_args", "") for name in names]


def _place(key: str, configs: Configs, argv: Sequence[str], value: str = "") -> str:
    """Where a key stands, with this value if it is known: the command line is last, after it the later files."""
    plain, places = key.replace(".init_args", ""), []
    if any(name == plain or name.startswith(f"{plain}.") for name in _names({}, argv)):
        places.append((" (on the command line)", " ".join(argv)))
    for name, content in reversed(configs.items()):
        if plain in _names({name: content}, ()):
            places.append((f" (in {name})", str(content)))
    with_value = [place for place, text in places if value in text]
    return next(iter([*with_value, *(place for place, _ in places)]), "")


def say_error(error: Exception) -> str:
    """An exception's message on one line; for weights that do not fit, how many and which."""
    text = str(error)
    if "loading state_dict" in text:
        return describe_misfit(text)
    if "Does not validate against any" in text:  # jsonargparse wraps what a constructor raises
        return _reason(text)
    return one_line(error, 10**6)
