"""Arguments in groups (frozen dataclasses such as fewstep.optimizers.AdamW): where a key belongs that has no group."""

from collections.abc import Mapping, Sequence
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from commands.trusted_code import imported

RENAMED = {  # an argument of an earlier version -> its place, where the name is another, too
    "lr_schedule": "optimizer.schedule",
    "test_split": "splits.test",
    "train_split": "splits.train",
    "val_split": "splits.val",
    "worker_restarts": "loader.restarts",
}


def arguments_of(class_path: str) -> list[str]:
    """What an imported class takes: names, groups among them, and `group.name` for what stands in a group."""
    if not isinstance(cls := imported(class_path), type):  # a function that builds one has no groups
        return []
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, fail_untyped=False)
    return [action.dest for action in parser._actions if action.dest.rpartition(".")[2] != "help"]


def places_in_groups(name: str, known: Sequence[str]) -> list[str]:
    """`num_val` -> `splits.num_val`: the grouped ones of the known arguments that a name without its group may mean."""
    ending = f".{RENAMED.get(name, name)}"
    return [place for place in known if "." in place and f".{place}".endswith(ending)]


def no_group(key: str, value: Any, class_path: str) -> str:
    """One line for the group at PART.GROUP that is given one value instead of settings by name."""
    group = key.partition(".")[2]
    example = next((name for name in arguments_of(class_path) if name.startswith(f"{group}.")), None)
    remedy = f"; it is a group of settings, such as {key}{example.removeprefix(group)}" if example else ""
    return f"{key} cannot be {'null' if value is None else repr(value)}{remedy}"


def check_groups(parsed: Mapping[str, Any] | Namespace) -> None:
    """ValueError in one line for a group of model or data that is one value, which the parser may let pass."""
    for part in ("model", "data"):
        section = parsed.get(part)
        if not isinstance(section, Mapping | Namespace):  # the parser dumps parts of a config, too: a `model` is a name
            continue
        path, arguments = section.get("class_path", ""), section.get("init_args") or Namespace()
        for group in dict.fromkeys(name.rpartition(".")[0] for name in arguments_of(path) if "." in name):
            value = arguments.get(group, Namespace())
            if not isinstance(value, Mapping | Namespace):
                raise ValueError(no_group(f"{part}.{group}", value, path))
