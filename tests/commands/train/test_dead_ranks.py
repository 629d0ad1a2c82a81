"""Ranks that die: real processes that are really killed, and what the others do and say."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, OnExceptionCheckpoint
from lightning.pytorch.strategies.launchers import subprocess_script
from torch import distributed

from commands.train import dead_ranks
from commands.train.dead_ranks import RankWatch, lost_connection
from tests.patience import PATIENCE

SLEEP = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]


def trainer(rank: int = 0, **changes: object) -> SimpleNamespace:
    """What RankWatch asks a trainer for, on two ranks."""
    launcher = object.__new__(subprocess_script._SubprocessScriptLauncher)
    launcher.procs = []
    environment = SimpleNamespace(creates_processes_externally=rank > 0)
    strategy = SimpleNamespace(launcher=launcher if rank == 0 else None, cluster_environment=environment)
    known = {"callbacks": [], "world_size": 2, "interrupted": False, "global_rank": rank, "local_rank": rank}
    return SimpleNamespace(strategy=strategy, **known | changes)


@pytest.fixture
def pids():
    """Processes that a test forks; none of them outlives it."""
    started: list[int] = []
    yield started
    for pid in started:
        if not os.waitpid(pid, os.WNOHANG)[0]:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def forked(pids: list[int], action, output: Path) -> int:
    """Run `action` in a fork of this process with stderr in `output`; exit code 99 if it returns."""
    pid = os.fork()
    if not pid:
        os.dup2(os.open(output, os.O_CREAT | os.O_WRONLY), 2)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        try:
            action()
        finally:
            os._exit(99)
    pids.append(pid)
    return pid


def ends_with(pid: int, pids: list[int], seconds: float = PATIENCE) -> int:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            pids.remove(pid)
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    raise AssertionError("the process hangs")


@pytest.mark.parametrize(
    ("ends", "code", "told"),
    [
        ("os.kill(os.getpid(), 9)", 1, "rank 1 was killed by SIGKILL"),
        ("sys.exit(143)", 143, "rank 1 ended with exit code 143"),
        ("sys.exit(7)", 1, "rank 1 ended with exit code 7"),
    ],
)
def test_rank_0_ends_although_its_main_thread_waits_for_ever(tmp_path, monkeypatch, pids, ends, code, told):
    monkeypatch.setattr(dead_ranks, "GRACE", 0.3)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()

    def rank_0() -> None:
        own = trainer()
        watch = RankWatch(own, tmp_path)
        watch.start()
        own.strategy.launcher.procs = [
            subprocess.Popen([sys.executable, "-S", "-c", f"import os, sys; {ends}"]),
            subprocess.Popen(SLEEP),
        ]
        Path(tmp_path, "second").write_text(str(own.strategy.launcher.procs[1].pid))
        threading.Event().wait()  # as in a collective

    assert ends_with(forked(pids, rank_0, tmp_path / "err"), pids) == code
    (line,) = (tmp_path / "err").read_text().splitlines()
    assert line.startswith(f"error on rank 0: {told}; {tmp_path}/checkpoints/last.ckpt is intact; go on with")
    assert not running(int(Path(tmp_path, "second").read_text()))


def test_a_rank_ends_when_rank_0_has_been_killed(tmp_path, monkeypatch, pids):
    monkeypatch.setattr(dead_ranks, "GRACE", 0.3)

    def rank_0() -> None:
        monkeypatch.setenv(dead_ranks.LAUNCHER_VARIABLE, str(os.getpid()))
        if not os.fork():
            RankWatch(trainer(rank=1), tmp_path).start()
            Path(tmp_path, "rank_1").write_text(str(os.getpid()))
            threading.Event().wait()
        threading.Event().wait()

    first = forked(pids, rank_0, tmp_path / "err")
    wait_for(lambda: (tmp_path / "rank_1").exists() and (tmp_path / "rank_1").read_text())
    os.kill(first, signal.SIGKILL)
    assert ends_with(first, pids) == -signal.SIGKILL
    wait_for(lambda: not running(int((tmp_path / "rank_1").read_text())))
    assert (tmp_path / "err").read_text() == "error on rank 1: rank 0 is gone; no checkpoint was written yet\n"


def test_a_broken_collective_is_told_from_other_errors(tmp_path, pids):
    """What gloo raises when its peer is killed in the middle of an all-reduce."""

    def rank(number: int) -> None:
        store = f"file://{tmp_path}/store"
        distributed.init_process_group("gloo", store, timedelta(seconds=120), world_size=2, rank=number)
        distributed.all_reduce(torch.zeros(1))
        if number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            distributed.all_reduce(torch.zeros(1))
        except RuntimeError as error:
            os._exit(11 if lost_connection(error) and lost_connection(_caused_by(error)) else 12)

    first, second = (forked(pids, lambda number=number: rank(number), tmp_path / f"err{number}") for number in (0, 1))
    assert ends_with(second, pids) == -signal.SIGKILL
    assert ends_with(first, pids) == 11
    for other in (ValueError("gloo"), RuntimeError("size mismatch"), KeyError("x"), ConnectionError("s3 is down")):
        assert not lost_connection(other)


def test_an_error_that_a_death_caused_is_one_line_and_no_other_is(tmp_path, monkeypatch):
    monkeypatch.delenv(dead_ranks.LAUNCHER_VARIABLE, raising=False)
    broken = RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer")
    line, code = RankWatch(trainer(rank=1), tmp_path).explain(broken)
    assert re.match(r"error on rank 1: another rank is gone \(.*Connection closed.*\); no checkpoint", line)
    assert code == 1
    assert RankWatch(trainer(rank=1), tmp_path).explain(RuntimeError("a mistake")) is None
    assert RankWatch(trainer(world_size=1), tmp_path).explain(broken) is None


def test_rank_0_outlives_its_ranks_and_passes_on_that_one_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess_script, "_launch_process_observer", None)  # put back after the test
    for ends, code in (("0", 0), ("3", 1)):
        own = trainer()
        watch = RankWatch(own, tmp_path)
        watch.start()
        slow = f"import sys, time; time.sleep(0.5); sys.exit({ends})"
        own.strategy.launcher.procs = [subprocess.Popen([sys.executable, "-S", "-c", slow])]
        assert watch.finish(failed=False) == code
        assert own.strategy.launcher.procs[0].returncode == int(ends)
        assert dead_ranks.LAUNCHER_VARIABLE not in os.environ


def test_ranks_of_another_launcher_are_not_watched(tmp_path, monkeypatch):
    """Under torchrun Lightning has a launcher, too; a second training there took itself for a started rank."""
    monkeypatch.delenv(dead_ranks.LAUNCHER_VARIABLE, raising=False)
    placed = trainer()
    placed.strategy.cluster_environment.creates_processes_externally = True
    watch = RankWatch(placed, tmp_path)
    watch.start()
    assert dead_ranks.LAUNCHER_VARIABLE not in os.environ
    assert watch.finish(failed=True) == 0


@pytest.mark.parametrize("saver", [OnExceptionCheckpoint("."), ModelCheckpoint(save_on_exception=True)])
def test_savers_that_would_wait_for_the_dead_are_refused(tmp_path, saver):
    with pytest.raises(ValueError, match="would save after an exception"):
        RankWatch(trainer(callbacks=[saver]), tmp_path)
    RankWatch(trainer(callbacks=[saver], world_size=1), tmp_path)


def _caused_by(error: Exception) -> Exception:
    try:
        raise ValueError("metrics could not be reduced") from error
    except ValueError as outer:
        return outer


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition, seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
