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
    offered = [found for _, found in inspect.getmembers(home) if getattr(found, "__module__", None) == home.__name__]
    networks = [kind for kind in offered if inspect.isclass(kind) and issubclass(kind, nn.Module)]
    for kind in networks:
        assert resolve(new_path(f"{module}.{kind.__name__}")) is kind
    with pytest.raises((ImportError, AttributeError)):  # so that nothing old is shadowed
        resolve(f"{module}.{offered[0].__name__}")


@pytest.mark.parametrize("name", callbacks.__all__)
def test_callbacks_have_one_path(name):
    assert new_path(f"callbacks.some_file.{name}") == f"callbacks.{name}"
    assert new_path(f"callbacks.{name}") is None


@pytest.mark.parametrize("path", ["EMA", "torch.nn.Linear", "fewstep.rng.X", "callbacks.mine.Own", ""])
def test_others_stay(path):
    assert new_path(path) is None
