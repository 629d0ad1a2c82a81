"""The catalogue knows every callback that measures, and the guide every name of `--metrics`."""

import re
from pathlib import Path

import callbacks
from callbacks.metrics.catalogue import CHOICES

GUIDE = Path(__file__).parents[3] / "docs" / "evaluate.md"


def test_every_callback_that_measures_has_a_name():
    measuring = {n for n in callbacks.__all__ if getattr(callbacks, n).__module__.startswith("callbacks.metrics.")}
    assert measuring <= {choice.callback.rpartition(".")[2] for choice in CHOICES.values()}


def test_the_guide_lists_every_name():
    table = GUIDE.read_text().split("| `--metrics` |")[1].split("\n\n")[0].splitlines()[2:]
    named = {name for row in table for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert named == set(CHOICES)
