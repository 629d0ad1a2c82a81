"""Fixtures of the run tests: a config of the tiny run, in an empty working directory."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

import train
from tests.patience import PATIENCE

TINY = {
    "model": {"class_path": "tests.callbacks.tiny_run.TinyModule"},
    "data": {"class_path": "tests.callbacks.tiny_run.TinyData"},
    "trainer": {"max_steps": 20, "accelerator": "cpu"},
    "wandb": "disabled",
}


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
def fit_alone(config: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The same in a process of its own: what it prints is its own, and W&B has written all when it ends."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, train.__file__, "fit", "-c", str(config), *arguments]
        environment = {**os.environ, "PYTHONPATH": str(Path(train.__file__).parent)}
        return subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE
        )

    return run


@pytest.fixture
def load() -> Callable[[str], dict]:
    """A checkpoint by path, without running code from it."""
    return lambda path: torch.load(path, weights_only=True)
