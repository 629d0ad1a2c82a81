"""Online runs against a stand-in for the server: it works, it dies in the middle, it hangs in the middle."""

import subprocess
import sys
import time

import pytest
import wandb

from callbacks.tracking.wandb_logger import OfflineFirstWandbLogger
from tests.callbacks.fake_wandb_server import FakeWandbServer
from tests.callbacks.wandb_record import history_of
from tests.patience import PATIENCE


@pytest.fixture
def server(monkeypatch, tmp_path):
    for name in ("WANDB_MODE", "WANDB_DIR", "WANDB_DATA_DIR", "WANDB_RUN_ID", "WANDB_SWEEP_ID"):
        monkeypatch.delenv(name, raising=False)
    fake = FakeWandbServer()
    monkeypatch.setenv("WANDB_BASE_URL", fake.url)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("NETRC", str(tmp_path / "no_netrc"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    wandb.teardown()
    yield fake
    fake.stop()
    wandb.teardown()


def start(tmp_path, finish_timeout):
    logger = OfflineFirstWandbLogger(
        str(tmp_path), "name", mode="online", probe_timeout=60.0, init_timeout=120.0, finish_timeout=finish_timeout
    )
    logger.log_metrics({"val/fid": 3.0}, step=1)
    assert logger.mode == "online"
    return logger


def test_values_arrive_and_nothing_is_left_to_upload(tmp_path, server):
    logger = start(tmp_path, finish_timeout=60.0)
    logger.log_metrics({"val/fid": 2.0}, step=2)
    assert logger.close() is None
    assert [(row["val/fid"], row["trainer/global_step"]) for row in server.streamed] == [(3.0, 1), (2.0, 2)]


@pytest.mark.parametrize("fault", ["dies", "hangs"])
def test_a_server_that_fails_in_the_middle_delays_the_end_by_the_timeout_only(tmp_path, server, fault, capsys):
    """Whoever waited for the server would wait for ever, and the test with it."""
    logger = start(tmp_path, finish_timeout=3.0)
    logger._probe_timeout = 3.0  # the long one of `start` is for a busy machine; from here on nobody answers anyway
    if fault == "dies":
        server.stop()
        server.stop = lambda: None
    else:
        server.hang.set()
    for step in range(2, 200):
        logger.log_metrics({"val/fid": 1.0 / step}, step=step)
    command = logger.close()
    (part,) = tmp_path.glob("wandb/run-*")
    assert command == f"wandb sync --include-online {part}"
    assert "not everything was uploaded" in capsys.readouterr().out
    (file,) = part.glob("run-*.wandb")
    assert [row["trainer/global_step"] for row in history_of(file, rows=199)] == list(range(1, 200))


def test_the_printed_command_uploads_both_parts_of_an_offline_run_one_after_the_other(tmp_path, server):
    for first in (1, 3):
        logger = OfflineFirstWandbLogger(str(tmp_path), "name")
        for step in (first, first + 1):
            logger.log_metrics({"val/fid": 1.0 / step}, step=step)
        command = logger.close()
        wandb.teardown()
        time.sleep(1.1)  # the folders' names are exact to the second
    argv = [sys.executable, "-m", *command.split()]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=tmp_path, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert [row["trainer/global_step"] for row in server.streamed] == [1, 2, 3, 4]
    assert [row["_step"] for row in server.streamed] == sorted(row["_step"] for row in server.streamed)
    again = OfflineFirstWandbLogger(str(tmp_path), "name")
    again.log_metrics({"val/fid": 0.0}, step=5)
    assert len(again.close().split()) == 3  # the parts that were uploaded are not named again
