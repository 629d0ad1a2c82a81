"""A class path of an earlier version leads to the class that it named."""

import importlib
import inspect

import pytest
from torch import nn

import callbacks
from commands.moved_paths import MOVED, new_path
from commands.trusted_code import resolve


@pytest.mark.parametrize("module", MOVED)
def test_what_a_moved_module_offers_is_found_under_its_new_path(module):
    home = importlib.import_module(MOVED[module])
    networks = [kind for _, kind in inspect.getmembers(home, inspect.isclass) if issubclass(kind, nn.Module)]
    for kind in [kind for kind in networks if kind.__module__ == home.__name__]:
        assert resolve(new_path(f"{module}.{kind.__name__}")) is kind
    with pytest.raises((ImportError, AttributeError)):  # so that nothing old is shadowed
        resolve(f"{module}.{networks[0].__name__}")


@pytest.mark.parametrize("name", callbacks.__all__)
def test_callbacks_have_one_path(name):
    assert new_path(f"callbacks.some_file.{name}") == f"callbacks.{name}"
    assert new_path(f"callbacks.{name}") is None


@pytest.mark.parametrize("path", ["EMA", "torch.nn.Linear", "fewstep.rng.X", "callbacks.mine.Own", ""])
def test_others_stay(path):
    assert new_path(path) is None
