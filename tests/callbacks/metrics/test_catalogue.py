"""The catalogue knows what is logged, and nothing else; the guide knows every name of `--metrics`."""

import ast
import re
from pathlib import Path

import callbacks
from callbacks.metrics.catalogue import CHOICES, METRICS, goal

ROOT = Path(__file__).parents[3]
# Costs, and what neither end is better of.
WITHOUT_GOAL = {"code_mean_square", "passes", "passes_p95", "seconds_p95", "repaired"}
PUT_TOGETHER = {
    "image_to_text_r1",
    "text_to_image_r1",
    "aesthetic",
}  # of parts, and by a config of callbacks.RewardCallback
GUIDE = ROOT / "docs" / "evaluate.md"


def test_every_callback_that_measures_has_a_name():
    measuring = {n for n in callbacks.__all__ if getattr(callbacks, n).__module__.startswith("callbacks.metrics.")}
    assert measuring <= {choice.callback.rpartition(".")[2] for choice in CHOICES.values()}


def test_the_guide_lists_every_name():
    table = GUIDE.read_text().split("| `--metrics` |")[1].split("\n\n")[0].splitlines()[2:]
    named = {name for row in table for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert named == set(CHOICES)


def logged_names() -> set[str]:
    """Every text of the code that logs which may be a log key or its end, with x for what an f-string puts in."""
    rooms = ("callbacks", "lightning_modules", "commands/evaluate", "fewstep")
    found = set()
    for file in (file for room in rooms for file in (ROOT / room).rglob("*.py") if file.name != "catalogue.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
                found.add(re.sub("/{}(?=.)", "/", "".join(parts)).replace("{}", "x"))  # without a prefix, if it has one
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return {text.rpartition("/")[2] for text in found if re.fullmatch(r"[\w/]+", text)}


def test_nothing_is_in_the_catalogue_that_nothing_logs():
    """The other way round is asked of every test that logs, in tests/conftest.py."""
    rewards = {choice.options["name"] for choice in CHOICES.values() if "name" in choice.options}
    logged = logged_names() | rewards | PUT_TOGETHER
    assert [pattern for pattern in METRICS if not any(re.fullmatch(pattern, name) for name in logged)] == []


def test_every_measured_value_but_costs_has_a_goal():
    assert {pattern for pattern, metric in METRICS.items() if not metric.better} == WITHOUT_GOAL
    for name in ("conditional_w2", "conditional_sw2", "conditional_energy", "marginal_sw2", "nll_natural"):
        assert goal(f"test/{name}") == "min"
    assert goal("test/oracle_auc") == "max"
