"""The workspace recipe charts what runs log; the package that applies it is asked for in one line."""

import importlib.util
import sys
from pathlib import Path

from callbacks.metrics.catalogue import goal

SCRIPT = Path(__file__).parents[3] / "docs" / "wandb_workspace.py"


def recipe():
    spec = importlib.util.spec_from_file_location("wandb_workspace", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_charted_value_has_a_goal_and_every_bar_is_its_best():
    module = recipe()
    charted = [key for panels in module.SECTIONS.values() for keys in panels for key in keys]
    assert len(charted) == len(set(charted))
    assert [key for key in charted if key.startswith("val/") and goal(key) is None] == []
    assert {key.rpartition(".")[2]: 1 for key in module.BEST} == {"min": 1, "max": 1}
    for key in module.BEST:
        name, _, best = key.rpartition(".")
        assert name in charted
        assert best == goal(name)


def test_without_the_package_one_line_says_how_to_run_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    for options in ([], ["--report"]):
        assert recipe().main(["me", "fewstep", *options]) == 2
        assert "uv run --with wandb-workspaces python docs/wandb_workspace.py" in capsys.readouterr().err
