"""The W&B logger: best values, ids that survive, servers that fail in every way, secrets."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import wandb

from callbacks.metrics.catalogue import goal
from callbacks.tracking import wandb_logger
from callbacks.tracking.run_ids import stored_run_id
from callbacks.tracking.wandb_connection import sync_command, unreachable
from callbacks.tracking.wandb_logger import OfflineFirstWandbLogger
from fewstep.files.secrets import without_secrets
from tests.callbacks.wandb_record import config, history, parts_of, records, summaries


@pytest.fixture(autouse=True)
def _no_account(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR", "WANDB_DATA_DIR", "WANDB_RUN_ID", "WANDB_SWEEP_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no_netrc"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    yield
    wandb.teardown()


@pytest.fixture
def fake_server(monkeypatch):
    """fake_server(handle): a TCP server for W&B's address; handle(connection) runs for each connection."""
    stop, sockets = threading.Event(), []

    def start(handle):
        server = socket.create_server(("127.0.0.1", 0))
        server.settimeout(0.1)
        sockets.append(server)

        def serve():
            while not stop.is_set():
                try:
                    connection, _ = server.accept()
                except OSError:
                    continue
                sockets.append(connection)
                handle(connection)

        threading.Thread(target=serve, daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("WANDB_BASE_URL", url)
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        return url

    yield start
    stop.set()
    for s in sockets:
        s.close()


@pytest.mark.parametrize(
    ("key", "better"),
    [
        ("val/fid", "min"),
        ("val/fd_mobilenet", "min"),
        ("val/nll", "min"),
        ("val/edit_lpips_vgg", "min"),
        ("val/lpips_vgg", "min"),
        ("val/image_reward", "max"),
        ("val/edit_psnr", "max"),
        ("test/image_to_text_r5", "max"),
        ("val/mean_recall", "max"),
        ("val/nfe", None),
        ("val/conditional_energy", "min"),
        ("val/marginal_sw2", "min"),
        ("val/full_cycle_loss", "min"),
        ("val/novelty", None),
        ("train/loss", None),
        ("valley/fid", None),
    ],
)
def test_goal_of_a_metric(key, better):
    assert goal(key) == better


def test_the_summary_is_asked_to_keep_best_and_last(tmp_path):
    logger = OfflineFirstWandbLogger(str(tmp_path), "name")
    for step, fid in enumerate([30.0, 10.0, 20.0]):
        logger.log_metrics({"val/fid": fid, "val/image_reward": -fid, "val/nfe": 4.0}, step)
    kept = dict(logger.experiment.summary)
    assert kept["val/nfe"] == 4.0
    assert dict(kept["val/fid"]) == {"min": 10.0, "last": 20.0}
    assert dict(kept["val/image_reward"]) == {"max": -10.0, "last": -20.0}
    logger.close()
    (file,) = parts_of(tmp_path)
    found = records(file)
    assert summaries(found) == {
        "trainer/global_step": set(),
        "*": set(),
        "val/fid": {"min", "last"},
        "val/image_reward": {"max", "last"},
    }
    assert [row["trainer/global_step"] for row in history(found)] == [0, 1, 2]


def test_histograms_leave_out_what_is_not_finite(tmp_path):
    logger = OfflineFirstWandbLogger(str(tmp_path), "name")
    logger.log_histograms({"val/score": np.array([0.0, 1.0, np.nan, np.inf]), "val/empty": np.array([np.nan])}, 3)
    logger.close()
    (row,) = history(records(parts_of(tmp_path)[0]))
    assert sum(row["val/score/values"]) == 2
    assert not [key for key in row if key.startswith("val/empty")]


def test_the_id_is_kept_with_the_folder_and_new_in_another(tmp_path):
    ids = []
    for folder in ("a", "a", "moved", "a"):
        if folder == "moved":
            shutil.move(tmp_path / "a", tmp_path / "moved")
        logger = OfflineFirstWandbLogger(str(tmp_path / folder), "runs-same name")
        ids.append(logger.experiment.id)
        logger.close()
    assert ids[0] == ids[1] == ids[2]
    assert ids[3] != ids[0]  # the same name, used again after the first run had been moved away
    assert all(re.fullmatch(r"runs-same_name-[0-9a-f]{6}", i) for i in ids)


@pytest.mark.parametrize("content", ["../../etc", "", "a b", "x" * 500])
def test_a_damaged_id_file_is_replaced(tmp_path, content):
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "run_id.txt").write_text(content)
    assert re.fullmatch(r"name-[0-9a-f]{6}", stored_run_id(tmp_path, "name"))


def test_in_a_sweep_the_agent_names_the_run(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "agents1d")
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    logger = OfflineFirstWandbLogger(str(tmp_path), "name")
    assert logger.experiment.id == "agents1d"
    logger.close()
    assert (tmp_path / "wandb" / "run_id.txt").read_text() == "agents1d\n"


def test_the_command_uploads_both_halves_of_a_resumed_run_in_the_order_of_time(tmp_path):
    for step in (1, 2):
        logger = OfflineFirstWandbLogger(str(tmp_path), "name")
        logger.log_metrics({"val/nll": 1.0 / step}, step)
        command = logger.close()
        time.sleep(1.1)  # their names are exact to the second
    first, second = parts_of(tmp_path)
    assert command == f"wandb sync {first.parent} {second.parent}"
    assert history(records(first))[0]["trainer/global_step"] == 1
    assert history(records(second))[0]["trainer/global_step"] == 2
    wandb.teardown()
    argv = [sys.executable, "-m", "wandb", *command.split()[1:], "--dry-run"]
    dry = subprocess.run(argv, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert "Would sync 2 run(s)" in dry.stderr + dry.stdout
    Path(f"{first}.synced").touch()  # what wandb leaves behind
    assert sync_command(tmp_path, stored_run_id(tmp_path, "")) == f"wandb sync {second.parent}"


def test_a_server_that_answers_nothing_costs_the_probe_only(tmp_path, fake_server, capsys):
    """Without the probe the start would outlast the test."""
    url = fake_server(lambda connection: None)
    logger = OfflineFirstWandbLogger(str(tmp_path), "name", mode="online", probe_timeout=0.5, init_timeout=1000.0)
    logger.log_metrics({"val/nll": 1.0}, step=1)
    assert url in capsys.readouterr().out
    assert logger.close().startswith("wandb sync ")


def test_a_server_that_hangs_up_after_the_probe_costs_the_start_timeout(tmp_path, fake_server, capsys):
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    probed = []

    def once(connection):
        if not probed:
            probed.append(connection.recv(1000))
            connection.sendall(answer)
        connection.close()

    fake_server(once)
    earlier = tmp_path / "wandb" / "run-20200101_000000-known"
    earlier.mkdir(parents=True)
    (tmp_path / "wandb" / "run_id.txt").write_text("known\n")
    logger = OfflineFirstWandbLogger(str(tmp_path), "name", mode="online", probe_timeout=60.0, init_timeout=1.0)
    logger.log_metrics({"val/nll": 1.0}, step=1)
    assert probed
    assert "recording offline instead" in capsys.readouterr().out
    logger.close()
    (file,) = parts_of(tmp_path)
    assert history(records(file))[0]["val/nll"] == 1.0
    assert list(tmp_path.glob("wandb/run-*-known")) == [earlier]  # an earlier part stays, the failed one is gone


def test_any_answer_means_that_the_server_is_there():
    class Refuses(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(403)

        def log_message(self, *args):
            pass

    with HTTPServer(("127.0.0.1", 0), Refuses) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert unreachable(f"http://127.0.0.1:{server.server_port}", 60) is None
        server.shutdown()
    assert "unknown url type" in unreachable("no-address", 1)


@pytest.mark.skipif(shutil.which("ps") is None, reason="needs ps")
def test_a_recorder_that_dies_is_said_once_and_nothing_raises(tmp_path, capsys):
    logger = OfflineFirstWandbLogger(str(tmp_path), "name")
    logger.log_metrics({"a": 1.0}, 0)
    lines = subprocess.run(["ps", "-eo", "pid,ppid,comm"], capture_output=True, text=True, check=True).stdout
    processes = [line.split()[:3] for line in lines.splitlines()]
    (core,) = [int(pid) for pid, parent, name in processes if parent == str(os.getpid()) and "wandb-core" in name]
    os.kill(core, signal.SIGKILL)
    os.waitid(os.P_PID, core, os.WEXITED | os.WNOWAIT)  # dead by now, and still there for wandb to find so
    for step in range(50):
        logger.log_metrics({"a": 1.0, "val/fid": 2.0}, step)
    logger.in_background("upload", lambda run: run.log({"b": 1}))
    assert logger.close().startswith("wandb sync ")
    assert capsys.readouterr().out.count("W&B: logging failed") == 1
    again = OfflineFirstWandbLogger(str(tmp_path / "next"), "name")  # the process can record another run
    again.log_metrics({"a": 1.0}, 0)
    assert again.close()
    assert history(records(parts_of(tmp_path / "next")[0]))[0]["a"] == 1.0


def test_a_run_that_cannot_start_records_nothing_and_trains(tmp_path, capsys):
    (tmp_path / "wandb").write_text("a file where a folder should be")
    logger = OfflineFirstWandbLogger(str(tmp_path), "name")
    logger.log_metrics({"val/nll": 1.0}, step=1)
    logger.log_image("x", ["missing.png"])
    assert logger.close() is None
    assert capsys.readouterr().out.count("W&B: start failed") == 1
    assert "WANDB_DATA_DIR" not in os.environ  # the next run of this process has its own folder


def test_a_picture_that_cannot_be_read_is_said_once(tmp_path, capsys):
    logger = OfflineFirstWandbLogger(str(tmp_path), "name")
    for _ in range(2):
        logger.log_image("val/samples", [str(tmp_path / "missing.png")])
    logger.log_metrics({"val/nll": 1.0}, step=1)
    logger.close()
    assert capsys.readouterr().out.count("W&B: image failed") == 1
    assert history(records(parts_of(tmp_path)[0]))[-1]["val/nll"] == 1.0


def test_a_full_disk_is_said_once(tmp_path, monkeypatch, capsys):
    usage = type("Usage", (), {"free": 5000})
    monkeypatch.setattr("callbacks.tracking.wandb_connection.shutil.disk_usage", lambda path: usage)
    logger = OfflineFirstWandbLogger(str(tmp_path), "name")
    logger.log_metrics({"val/nll": 1.0}, step=1)
    logger._looked_at_disk = -1e9
    logger.log_metrics({"val/nll": 1.0}, step=2)
    logger.close()
    assert capsys.readouterr().out == (
        "W&B: recording failed (the disk is full, 5 kB free); the run goes on without it.\n"
    )


def test_an_end_that_hangs_is_left_behind(tmp_path, monkeypatch, capsys):
    logger = OfflineFirstWandbLogger(str(tmp_path), "name", finish_timeout=0.2)
    logger.log_metrics({"val/nll": 1.0}, step=1)
    hang = threading.Event()
    monkeypatch.setattr(wandb_logger, "_finish", lambda run, exit_code: hang.wait())
    monkeypatch.setattr(wandb_logger, "GRACE", 0.2)
    logger.in_background("upload", lambda run: hang.wait())
    assert logger.close().startswith("wandb sync ")  # or it would wait for ever
    hang.set()


def test_what_looks_like_a_secret_is_not_recorded(tmp_path):
    raw = {
        "model": {"api_key": "abc", "num_tokens": 7, "tokenizer": "bert"},
        "data": {"path": "https://me:word@host/a.tar", "paths": ["s3://b/c?X-Amz-Signature=12&x=1", "data/emoji64"]},
    }
    safe = {
        "model": {"api_key": "***", "num_tokens": 7, "tokenizer": "bert"},
        "data": {"path": "https://***@host/a.tar", "paths": ["s3://b/c?***", "data/emoji64"]},
    }
    assert without_secrets(raw) == safe
    logger = OfflineFirstWandbLogger(str(tmp_path), "name", config=raw)
    logger.log_metrics({"a": 1.0}, 0)
    logger.close()
    found = config(records(parts_of(tmp_path)[0]))
    assert {key: found[key] for key in safe} == safe
    assert b"word@" not in parts_of(tmp_path)[0].read_bytes()


def test_staged_files_stay_in_the_run_directory(tmp_path):
    logger = OfflineFirstWandbLogger(str(tmp_path), "name")
    logger.log_sample_table("test/sample_table", ["key", "score"], [["a", 1.0]], 0)
    logger.close()
    assert list((tmp_path / "wandb" / "data").rglob("*"))
    assert not (tmp_path / "home" / ".local").exists()
    assert "WANDB_DATA_DIR" not in os.environ
