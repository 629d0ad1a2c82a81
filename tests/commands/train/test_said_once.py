"""Mistakes of several ranks: one line in all, no folder, and a rank that is alone with its mistake is heard."""

from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import distributed

import train
from commands.train import said_once
from commands.train.said_once import rank_0_says
from tests.forks import two_ranks

ROOT = Path(train.__file__).parent


def outcome(config, *flags):
    """Exit codes of two ranks and all that they wrote."""
    shared = ["-c", str(ROOT / "configs" / "trainer" / "ddp.yaml"), "--trainer.devices", "2"]
    forks = two_ranks("train", ["fit", "-c", str(config), *shared, *flags, "--run_dir", "run"], config.parent)
    return [fork.wait() for fork in forks], "".join(fork.text() for fork in forks)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--trainer.max_step", "3"], "unknown key 'trainer.max_step'"),
        (["--data.path", "missing"], "data folder missing does not exist"),
        (["--data.path", "late"], "shard late-000000.tar is truncated"),
    ],
    ids=["word", "built", "setup"],
)
def test_a_mistake_of_all_ranks_is_one_line_and_leaves_no_folder(config, flags, message):
    codes, text = outcome(config, *flags)
    assert codes == [2, 2], text
    assert text.count("error") == 1, text
    assert f"error: {message}" in text
    assert not Path("run").exists()
    assert not Path("runs").exists()


@pytest.fixture
def store(monkeypatch):
    """That of a group of one process, which asks as any rank."""
    kept = distributed.HashStore()
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(said_once.distributed_c10d, "_get_default_store", lambda: kept)
    monkeypatch.setattr(said_once, "PATIENCE", timedelta(milliseconds=10))
    return kept


def test_a_rank_is_silent_only_about_what_rank_0_says(store):
    assert not rank_0_says("the shard is torn", 1)
    assert not rank_0_says("the shard is torn", 0)
    assert rank_0_says("the shard is torn", 1)
    assert not rank_0_says("another shard is torn", 1)


def test_where_rank_0_is_gone_it_has_spoken(store, monkeypatch):
    def lost(*_):
        raise torch.distributed.DistNetworkError("failed to recv, got 0 bytes")

    gone = type("Gone", (), {"set": lost, "wait": lost})()
    monkeypatch.setattr(said_once.distributed_c10d, "_get_default_store", lambda: gone)
    assert rank_0_says("the shard is torn", 1)
    assert not rank_0_says("the shard is torn", 0)


def test_before_there_is_a_group_the_first_process_of_a_machine_speaks(monkeypatch):
    for local, silent in (("0", False), ("1", True)):
        monkeypatch.setenv("LOCAL_RANK", local)
        assert rank_0_says("unknown key", 4) is silent
    monkeypatch.delenv("LOCAL_RANK")
    assert not rank_0_says("unknown key", 0)
