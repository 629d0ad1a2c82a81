"""Fixtures of the run tests: a config of the tiny run, in an empty working directory."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

import train

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
def load() -> Callable[[str], dict]:
    """A checkpoint by path, without running code from it."""
    return lambda path: torch.load(path, weights_only=True)
