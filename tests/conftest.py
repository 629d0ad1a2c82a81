"""One seed and one thread, and a tiny run in an empty working directory.

Matrices are small here, and threads that wait for one another would cost minutes.
"""

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start
os.environ.setdefault("FEWSTEP_TRUST", "tests,benchmarks")  # whose tiny modules stand in configs
os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # read once, when a test first profiles; see flop_count.py

import numpy as np
import pytest
import torch
import yaml

import train
from tests.forks import Fork

TINY = {
    "model": {"class_path": "tests.callbacks.tiny_run.TinyModule"},
    "data": {"class_path": "tests.callbacks.tiny_run.TinyData"},
    "trainer": {"max_steps": 20, "accelerator": "cpu"},
    "wandb": "disabled",
}

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, so that of several processes none works alone at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before any fixture: what a test draws without a generator does not depend on the tests before it.

    Python's own `random` stays as it is: the moments of kills shall differ.
    """
    seed = int(os.environ.get("TEST_SEED", "0"))
    np.random.seed(seed)
    torch.manual_seed(seed)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Whatever our modules and callbacks log of a validation or test is in the catalogue of metrics."""
    module = sys.modules.get("lightning.pytorch.core.module")
    if module is not None and not hasattr(module.LightningModule.log, "watched"):
        for name, names in (("log", lambda key: [key]), ("log_dict", list)):
            setattr(module.LightningModule, name, _watched(getattr(module.LightningModule, name), names))


def _watched(log: Callable[..., None], names: Callable[[Any], list[str]]) -> Callable[..., None]:
    from callbacks.metrics.catalogue import BESIDE, find

    @functools.wraps(log)
    def watched(self: Any, *arguments: Any, **options: Any) -> None:
        logged = arguments[0] if arguments else options.get("name") or options["dictionary"]
        caller = sys._getframe(1).f_globals["__name__"].partition(".")[0]
        for key in names(logged) if caller in ("callbacks", "lightning_modules") else ():
            stage, _, name = key.partition("/")
            bare = next((name.removesuffix(end) for end in BESIDE if name.endswith(end)), name)
            known = find(bare) or bare == "brightness"  # of tests/tiny_pipeline.py
            assert stage not in ("val", "test") or known, f"{key} is not in callbacks/metrics/catalogue.py"
        log(self, *arguments, **options)

    watched.watched = True
    return watched


@pytest.fixture
def below(record_property: Callable[[str, float], None]) -> Callable[[str, float, float], None]:
    """below(name, value, bound): what a training reached, and the share of its bound that it takes, for all to see.

    benchmarks/reliability/training_tests.py prints the largest share over seeds, threads and kernels.
    """

    def check(name: str, value: float, bound: float) -> None:
        record_property(name, float(value / bound))
        assert value < bound, f"{name}: {value} is not below {bound}"

    return check


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """tmp_path/tiny.yaml; the working directory is tmp_path."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(TINY))
    return file


@pytest.fixture
def fit(config: Path) -> Callable[..., int]:
    """`train.py fit -c tiny.yaml ...` in this process; returns the exit code."""
    return lambda *arguments: train.main(["fit", "-c", str(config), *arguments])


@pytest.fixture
def fit_alone(
    config: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The same in a process of its own: what it prints is its own, and W&B has written all when it ends."""
    said = [tmp_path_factory.mktemp("said") / name for name in ("stdout", "stderr")]

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        argv = ["fit", "-c", str(config), *arguments]
        code = Fork("train", argv, *said).wait()
        return subprocess.CompletedProcess(argv, code, *(file.read_text() for file in said))

    return run


@pytest.fixture
def load() -> Callable[[str], dict]:
    """A checkpoint by path, without running code from it."""
    return lambda path: torch.load(path, weights_only=True)
