"""train.py as a user starts it, stopped by signals and by the death of a rank; all patterns: benchmarks/reliability."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

import train
from tests.forks import Fork
from tests.patience import PATIENCE

ROOT = Path(train.__file__).parent
CONFIG = {
    "model": {"class_path": "tests.callbacks.tiny_run.TinyModule"},
    "data": {"class_path": "tests.callbacks.tiny_run.TinyData", "init_args": {"steps_per_epoch": 50}},
    "trainer": {"accelerator": "cpu", "max_steps": 1_000_000},
    "wandb": "disabled",
    "run_dir": "run",
}
DDP = ["-c", str(ROOT / "configs" / "trainer" / "ddp.yaml"), "--trainer.devices", "2"]
LAST = Path("run/checkpoints/last.ckpt")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with tiny.yaml in it."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(yaml.safe_dump(CONFIG))
    return tmp_path


@pytest.fixture
def start(folder):
    """Start `train.py fit -c tiny.yaml ...` in a session of its own; whatever is left of it is killed in the end."""
    started: list[subprocess.Popen] = []

    def run(*arguments: str) -> subprocess.Popen:
        command = [sys.executable, str(ROOT / "train.py"), "fit", "-c", "tiny.yaml", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        output = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "start_new_session": True, "text": True}
        started.append(subprocess.Popen(command, env=environment, **output))
        return started[-1]

    yield run
    for process in started:
        for pid in session(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.wait()


def session(leader: int) -> list[int]:
    """Processes of a session that still run, in the order of their start: rank 0, rank 1."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader and fields[0] != "Z":
            found.append((int(fields[19]), int(stat.parent.name)))  # numbers of processes begin anew at some time
    return [pid for _, pid in sorted(found)]


def trains(process: subprocess.Popen) -> list[int]:
    """Its ranks, once the first checkpoint is written."""
    wait_for_checkpoint(process.poll, process.stderr.read)
    return session(process.pid)


def wait_for_checkpoint(poll: Callable[[], int | None], errors: Callable[[], str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not LAST.exists():
        assert poll() is None, errors()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def everything_ended(process: subprocess.Popen) -> bool:
    deadline = time.monotonic() + PATIENCE
    while session(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not session(process.pid)


def test_sigterm_saves_and_the_run_goes_on(folder):
    """A fork: how a fresh process takes the signal is seen with two ranks."""
    process = Fork("train", ["fit", "-c", "tiny.yaml"], folder / "stdout", folder / "stderr")
    try:
        wait_for_checkpoint(process.poll, (folder / "stderr").read_text)
        os.kill(process.pid, signal.SIGTERM)
        code = process.wait()
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
    step = torch.load(LAST, weights_only=True)["global_step"]
    assert (code, (folder / "stderr").read_text()) == (
        143,
        f"stopped by SIGTERM after step {step}: saved {LAST}; go on with --run_dir run --resume auto\n",
    )
    assert train.main(["fit", "--run_dir", "run", "--resume", "auto", "--trainer.max_steps", str(step + 3)]) == 0
    assert torch.load(LAST, weights_only=True)["global_step"] == step + 3


@pytest.mark.slow
def test_sigterm_to_the_second_of_two_ranks_stops_both(start):
    process = start(*DDP)
    os.kill(trains(process)[1], signal.SIGTERM)
    _, err = process.communicate(timeout=PATIENCE)
    step = torch.load(LAST, weights_only=True)["global_step"]
    assert process.returncode == 143, err
    told = f"stopped by a signal to another rank after step {step}: saved {LAST}; "
    assert err == f"{told}go on with --run_dir run --resume auto\n"
    assert everything_ended(process)


@pytest.mark.slow
def test_a_killed_rank_0_ends_the_rank_it_started_with_one_line(start):
    process = start(*DDP)
    os.kill(trains(process)[0], signal.SIGKILL)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGKILL
    assert err == f"error on rank 1: rank 0 is gone; {LAST} is intact; go on with --run_dir run --resume auto\n"
    assert everything_ended(process)
    assert torch.load(LAST, weights_only=True)["global_step"] > 0
