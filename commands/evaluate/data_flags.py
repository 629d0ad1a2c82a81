"""What the command line of evaluate.py changes in the data of a config, and how the data's complaints name it."""

from collections.abc import Mapping, Sequence
from typing import Any

from callbacks.metrics.catalogue import CHOICES
from commands.config_keys import flatten

# Argument of the data -> option of evaluate.py.
DATA_KEYS = {"path": "data", "splits.num_test": "num_samples", "eval_batch_size": "batch_size"}


def metadata_of(metrics: Sequence[str], options: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What these metrics, of --metrics, read of every sample's metadata."""
    chosen = {name: CHOICES[name].metadata for name in metrics if CHOICES[name].metadata}
    fields = {name: options.get(name, {}).get("field", field) for name, field in chosen.items()}
    for name, field in fields.items():
        if not isinstance(field, str) or not field:
            raise ValueError(f"--metrics.{name}.field {field!r}: give the name of what every sample's json has")
    return list(dict.fromkeys(fields.values()))


def with_metadata(arguments: Mapping[str, Any], wanted: Sequence[str]) -> dict[str, Any]:
    """The arguments of the data with these among the metadata that they read."""
    read = arguments.get("metadata") or []
    if not isinstance(read, list | tuple):
        return dict(arguments)  # which the parser refuses
    lacking = [name for name in wanted if name not in read]
    return {**arguments, "metadata": [*read, *lacking]} if lacking else dict(arguments)


def with_changes(arguments: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the data with these of the command line; another path is that of the test split, too."""
    if "path" in changes and "splits.test_path" in flatten(arguments):
        changes = {**changes, "splits.test_path": None}
    for key, value in changes.items():
        arguments = _with(arguments, key, value)
    return dict(arguments)


def _with(arguments: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """The arguments with another value of one of them, `group.name` in its group, if that is written as one."""
    group, _, name = key.rpartition(".")
    inner = arguments.get(group) or {}
    dotted = any(str(other).startswith(f"{group}.") for other in arguments)  # which a group beside it would replace
    if group and isinstance(inner, Mapping) and not dotted:
        key, value = group, {**inner, name: value}
    return {**arguments, key: value}


def in_flags(message: str, given: Mapping[str, Any]) -> str:
    """A message about an argument of the data, in the words of the command line that set it."""
    for key, option in DATA_KEYS.items():
        if given.get(option) is not None:
            message = message.replace(f"{key}=", f"{flag(key)} ")
    return message


def flag(key: str) -> str:
    """The option of evaluate.py that sets this argument of the data."""
    return f"--{DATA_KEYS[key].replace('_', '-')}"
