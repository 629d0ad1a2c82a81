"""Hyper-parameters in a checkpoint can always be loaded again."""

import enum
import functools
from argparse import Namespace
from collections import OrderedDict, namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch

from callbacks import AtomicCheckpointIO
from callbacks.checkpoints.plain_values import first_object, plain


class Mode(enum.Enum):
    FAST = "fast"


class Level(enum.IntEnum):
    HIGH = 3


class Word(str):
    """A subclass of a plain type, as parsers make them."""


class Thing:
    """An object without a plain form."""


Pair = namedtuple("Pair", "a b")
HERE = __name__
CASES = {
    "path": (Path("a/b"), "a/b"),
    "float32": (np.float32(0.5), 0.5),
    "bool_": (np.bool_(True), True),
    "array": (np.arange(3), [0, 1, 2]),
    "enum": (Mode.FAST, "fast"),
    "int enum": (Level.HIGH, 3),
    "str subclass": (Word("w"), "w"),
    "function": (len, "builtins.len"),
    "class": (Thing, f"{HERE}.Thing"),
    "object": (Thing(), f"<{HERE}.Thing>"),
    "partial": (functools.partial(len), "<functools.partial>"),
    "module": (torch.nn.Linear(1, 1), "<torch.nn.modules.linear.Linear>"),
    "namespace": (Namespace(a=Path("x")), {"a": "x"}),
    "nested": ([{"k": (Path("x"), {np.int64(2)})}], [{"k": ("x", {2})}]),
    "named tuple": (Pair(1, Path("x")), (1, "x")),
    "ordered": (OrderedDict(a=1), {"a": 1}),
    "range": (range(3), "<builtins.range>"),
}


@pytest.mark.parametrize("kind", CASES)
def test_it_is_written_as_a_plain_value_and_loads(tmp_path, kind):
    value, expected = CASES[kind]
    checkpoint = {"state_dict": {}, "hyper_parameters": {"x": value}, "datamodule_hyper_parameters": {"x": value}}
    AtomicCheckpointIO().save_checkpoint(checkpoint, tmp_path / "a.ckpt")
    loaded = torch.load(tmp_path / "a.ckpt", weights_only=True)
    for key in ("hyper_parameters", "datamodule_hyper_parameters"):
        assert loaded[key] == {"x": expected}
        assert type(loaded[key]["x"]) is type(expected)
    assert checkpoint["hyper_parameters"]["x"] is value  # the run's own stay as they are


@pytest.mark.parametrize("kind", ["path", "float32", "function", "object", "partial"])
def test_why_this_is_needed(tmp_path, kind):
    """Written as they are, none of these would let the run be resumed."""
    torch.save({"x": CASES[kind][0]}, tmp_path / "a.ckpt")
    with pytest.raises(Exception, match="Weights only load failed"):
        torch.load(tmp_path / "a.ckpt", weights_only=True)


def test_plain_values_stay_the_same_objects():
    tensor = torch.zeros(2)
    for value in (None, True, 3, 0.5, "s", b"b", tensor, torch.float16, torch.device("cpu")):
        assert plain(value, "here") is value


def test_an_object_is_named_once(capsys):
    for _ in range(2):
        plain({"model": {"only_here": Thing()}}, "hyper_parameters")
    err = capsys.readouterr().err
    line = f"checkpoint: hyper_parameters.model.only_here is no plain value and is written as '<{HERE}.Thing>'\n"
    assert err == line


def test_the_first_object_is_found():
    state = {"state_dict": {"w": torch.zeros(1)}, "callbacks": {"A": {"k": [1, (2, Thing())]}}}
    assert first_object(state) == f"callbacks.A.k ({HERE}.Thing)"
    assert first_object({"a": [1, None, torch.zeros(1)], "b": {"c": "x"}}) is None
