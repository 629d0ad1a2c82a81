"""The end of a trainer whose loader workers are stopped, dead with half a batch, or bereft: it ends, and so do they."""

import signal
import time
from pathlib import Path

import pytest

from tests.datamodules.ending_trainers import CASES
from tests.datamodules.picture_shards import write_folder
from tests.forks import Fork
from tests.patience import PATIENCE


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    long = {number: {"txt": (f"{number} " + "word " * 4000).encode()} for number in range(64)}  # fills a pipe
    folder = write_folder(tmp_path_factory.mktemp("ends"), [104], bad=long)
    return write_folder(folder, [13], "val")


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


@pytest.mark.parametrize("case", CASES)
def test_trainer_and_workers_end(shards, tmp_path, case):
    """torch and multiprocessing alone wait for ever in all cases but the last, which is here for comparison."""
    (tmp_path / "once").mkdir()
    trainer = Fork("tests.datamodules.ending_trainers", [case, str(shards), str(tmp_path / "once")], tmp_path / "out")
    assert trainer.wait() == (-signal.SIGKILL if case == "killed_itself" else 0), trainer.text()
    workers = [int(pid) for pid in trainer.text().splitlines()[-1].split()]
    deadline = time.monotonic() + PATIENCE
    while left := [pid for pid in workers if alive(pid)]:
        assert time.monotonic() < deadline, f"workers {left} outlive their trainer"
        time.sleep(0.1)
    assert len(workers) == 2
