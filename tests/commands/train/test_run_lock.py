"""One process at a time in a run directory, and none locked out by a dead one."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from commands.train import run_lock
from commands.train.run_lock import WAIT_VARIABLE, hold, patience, refuse_in_use, release_all
from tests.patience import PATIENCE

HOLDER = """
import importlib.util, os, pathlib, sys, time
spec = importlib.util.spec_from_file_location("run_lock", {module!r})
lock = importlib.util.module_from_spec(spec)
spec.loader.exec_module(lock)
try:
    lock.hold(pathlib.Path({folder!r}))
except ValueError as error:
    sys.exit(f"refused: {{error}}")
{then}
print("held", flush=True)
sys.stdin.read()
"""
FORKS = """
began, tells = os.pipe()
if not os.fork():
    os.write(tells, b"x")
    time.sleep({seconds})
os.read(began, 1)  # a fork has closed the lock once it runs
"""


@pytest.fixture(autouse=True)
def released():
    yield
    release_all()


@pytest.fixture
def start():
    """Start a process without torch that holds a folder until its input is closed."""
    processes = []

    def begin(folder: Path, then: str = "") -> subprocess.Popen:
        code = HOLDER.format(module=run_lock.__file__, folder=str(folder), then=then)
        environment = {k: v for k, v in os.environ.items() if k not in (WAIT_VARIABLE, "SLURM_JOB_ID")}
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        processes.append(subprocess.Popen([sys.executable, "-c", code], env=environment, text=True, **pipes))
        return processes[-1]

    yield begin
    for process in processes:
        process.kill()
        process.wait()


def test_a_second_process_is_told_who_has_the_folder(tmp_path, start):
    holder = start(tmp_path)
    assert holder.stdout.readline() == "held\n"
    for attempt in (hold, refuse_in_use):
        with pytest.raises(
            ValueError, match=f"run directory {tmp_path} is in use by process {holder.pid} on "
        ) as error:
            attempt(tmp_path)
        assert "\n" not in str(error.value)
    holder.communicate("")
    assert hold(tmp_path)
    assert not hold(tmp_path)
    line = start(tmp_path).communicate()[1]
    assert line.startswith(f"refused: run directory {tmp_path} is in use by process {os.getpid()} on ")


def test_of_many_that_start_together_one_wins(tmp_path, start):
    processes = [start(tmp_path) for _ in range(8)]
    lines = [process.stdout.readline() for process in processes]
    assert sorted(lines) == [""] * 7 + ["held\n"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_dead_hold_nothing_nor_do_the_workers_they_leave(tmp_path, start, number):
    holder = start(tmp_path, FORKS.format(seconds=PATIENCE))
    assert holder.stdout.readline() == "held\n"
    worker = int(Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text())
    holder.send_signal(number)
    holder.wait()
    assert hold(tmp_path)
    os.kill(worker, signal.SIGKILL)  # it was alive all the time


def test_a_launcher_waits_for_the_one_before(tmp_path, start, monkeypatch, capsys):
    holder = start(tmp_path)
    assert holder.stdout.readline() == "held\n"
    monkeypatch.setenv(WAIT_VARIABLE, "600")
    timer = threading.Timer(0.5, holder.kill)
    timer.start()
    assert hold(tmp_path)
    timer.join()
    assert "; waiting up to 600 s" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("environment", "waits"),
    [
        ({}, False),
        ({"TORCHELASTIC_RUN_ID": "none"}, False),
        ({"TORCHELASTIC_RUN_ID": "exp"}, True),
        ({"SLURM_JOB_ID": "7"}, True),
        ({"SLURM_JOB_ID": "7", WAIT_VARIABLE: "0"}, False),
    ],
)
def test_only_launchers_wait(environment, waits):
    assert (patience(environment) > 0) is waits


@pytest.mark.parametrize("kind", ["link", "dangling link", "folder", "pipe"])
def test_what_stands_in_place_of_the_lock_is_left_alone(tmp_path, kind):
    victim, lock = tmp_path / "victim", tmp_path / "run" / ".lock"
    lock.parent.mkdir()
    victim.write_text("precious") if kind != "dangling link" else None
    {"folder": lock.mkdir, "pipe": lambda: os.mkfifo(lock)}.get(kind, lambda: lock.symlink_to(victim))()
    with pytest.raises(ValueError, match=r"\.lock is not the lock file of a run"):
        hold(lock.parent)
    assert victim.exists() is (kind != "dangling link")
    assert not victim.exists() or victim.read_text() == "precious"


def test_a_second_name_of_another_file_is_not_written_to(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / ".lock").hardlink_to(victim)
    assert hold(tmp_path)
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_locks_one_line_and_the_run_goes_on(tmp_path, monkeypatch, capsys, number):
    def unsupported(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    assert hold(tmp_path)
    assert not hold(tmp_path)
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "cannot be locked" in err


@pytest.mark.parametrize("arguments", [[], ["--resume", "auto"], ["--resume", "run/checkpoints/last.ckpt"]])
def test_a_training_in_a_folder_in_use_changes_nothing(fit, start, capsys, arguments):
    assert fit("--run_dir", "run", "--trainer.max_steps", "2") == 0
    holder = start(Path("run").absolute())
    assert holder.stdout.readline() == "held\n"
    before = {p: p.stat().st_mtime_ns for p in Path().rglob("*")}
    capsys.readouterr()
    assert fit("--run_dir", "run", "--trainer.max_steps", "4", *arguments) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"run directory run is in use by process {holder.pid} on " in err
    assert {p: p.stat().st_mtime_ns for p in Path().rglob("*")} == before
    holder.communicate("")
    assert fit("--run_dir", "run", "--trainer.max_steps", "4", "--resume", "auto") == 0


def test_a_new_run_that_lost_the_race_stops_before_it_writes(fit, capsys, monkeypatch):
    """Both found the folder free; the other one was faster, and is gone again."""
    taken = run_lock.hold

    def late(folder: Path) -> bool:
        (folder / "config.yaml").write_text("of the other run")
        return taken(folder)

    monkeypatch.setattr(run_lock, "hold", late)
    assert fit("--run_dir", "run", "--trainer.max_steps", "2") == 2
    assert "run directory run is not empty" in capsys.readouterr().err
    assert Path("run/config.yaml").read_text() == "of the other run"
    assert sorted(p.name for p in Path("run").iterdir()) == [".lock", "config.yaml"]


def test_the_lock_is_given_back_with_the_command(fit, start):
    assert fit("--run_dir", "run", "--trainer.max_steps", "2") == 0
    assert start(Path("run").absolute()).stdout.readline() == "held\n"
