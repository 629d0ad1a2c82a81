"""What is wrong with one value of a config, under the key that a user can paste as a flag."""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jsonargparse import Namespace

from commands.config_errors import say_error

NAME_AND_VALUE = re.compile(r"([A-Za-z_][\w.]*)=(.+)", re.DOTALL)  # as our checks begin: lr=-1.0: must be ..


def in_keys(message: str, settings: Namespace) -> str:
    """`lr=-1.0: must ..` -> `model.optimizer.lr=-1.0: must ..`, if just one of the settings has that name and value."""
    if not (found := NAME_AND_VALUE.match(message)):
        return message
    name, rest = found.groups()
    keys = {
        _pasted(key)
        for key, value in settings.items()
        if f".{key}".endswith(f".{name}") and any(_begins(rest, text) for text in _ways(value))
    }
    return f"{keys.pop()}={rest}" if len(keys) == 1 else message


@contextmanager
def values_named(settings: Namespace) -> Iterator[None]:
    """A ValueError that leaves this block names its value so."""
    try:
        yield
    except ValueError as error:
        plain = type(error) is ValueError and not vars(error)
        if plain and (said := in_keys(text := say_error(error), settings)) != text:
            raise ValueError(said) from error
        raise


def refuse_nan(settings: Namespace) -> None:
    """ValueError in one line for a value that is no number: it is not below any bound, and trains everything away."""
    for key, value in settings.items():
        several = value if isinstance(value, list | tuple) else [value]
        if any(isinstance(number, float) and math.isnan(number) for number in several):
            raise ValueError(f"{_pasted(key)}={value}: is not a number; give one")


def _pasted(key: str) -> str:
    return re.sub(r"\.init_args\b", "", key)


def _ways(value: Any) -> set[str]:
    """How a message may write a value: a parsed list may have become a tuple."""
    values = [value, tuple(value)] if isinstance(value, list) else [value]
    return {write(each) for each in values for write in (str, repr)}


def _begins(rest: str, text: str) -> bool:
    return rest.startswith(text) and not re.match(r"[\w.]\w", rest[len(text) :])
