"""W&B offline first, metrics as CSV, both inside the run directory."""

import csv
import resource
import socket
from pathlib import Path

import pytest
import wandb

from callbacks.tracking.csv_logger import AppendingCSVLogger
from callbacks.tracking.wandb_logger import OfflineFirstWandbLogger
from tests.callbacks.wandb_record import parts_of


@pytest.fixture(autouse=True)
def _no_account(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no_netrc"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr("builtins.input", lambda *args: pytest.fail("a prompt was shown"))
    yield
    wandb.teardown()


def test_offline_run_stays_in_the_run_directory_and_says_how_to_upload(fit_alone):
    done = fit_alone("--run_dir", "run", "--wandb", "offline", "--trainer.log_every_n_steps", "5")
    assert (done.returncode, done.stderr) == (0, "")
    (record,) = parts_of("run")
    assert f"wandb sync {record.parent}" in done.stdout
    assert b"train/loss" in record.read_bytes()
    assert b"test/nll" in record.read_bytes()
    assert b"last_checkpoint" in record.read_bytes()  # the resolved config
    assert sorted(p.name for p in Path().iterdir() if p.name != "home") == ["run", "tiny.yaml"]


def test_the_record_is_started_before_there_is_anything_to_log(fit, capsys):
    assert fit("--run_dir", "run", "--wandb", "offline", "--trainer.max_steps", "1") == 0
    assert "wandb sync run/wandb/offline-run-" in capsys.readouterr().out


def test_a_resumed_run_keeps_its_id(fit):
    assert fit("--run_dir", "run", "--wandb", "offline", "--trainer.max_steps", "5") == 0
    assert fit("--run_dir", "run", "--wandb", "offline", "--resume", "auto") == 0
    first, second = parts_of("run")
    assert first.name == second.name


def test_a_failing_setup_leaves_no_record(fit):
    assert fit("--wandb", "offline", "--data.path", "late") == 2
    assert not Path("runs").exists()
    assert not Path("wandb").exists()


@pytest.mark.parametrize("credentials", [None, "0" * 40])
def test_online_without_account_or_network_goes_on_offline(tmp_path, monkeypatch, capsys, credentials):
    if credentials:
        monkeypatch.setenv("WANDB_API_KEY", credentials)
    with socket.socket() as closed:  # a port that nobody listens on
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
    logger = OfflineFirstWandbLogger(str(tmp_path), "some-id", mode="online", init_timeout=2.0)
    logger.log_metrics({"val/nll": 1.0}, step=1)
    assert logger.close() == f"wandb sync {next(tmp_path.glob('wandb/offline-run-*'))}"
    assert capsys.readouterr().out.startswith("W&B cannot be reached")
    assert not list(tmp_path.glob("wandb/run-*"))


def test_a_disk_that_cannot_be_written_costs_no_row(tmp_path, monkeypatch, capsys):
    """Lightning empties the file first to add a column, and its error ends the training."""
    logger = AppendingCSVLogger(str(tmp_path))
    logger.log_metrics({"loss": 1.0}, 0)
    file = tmp_path / "logs" / "metrics.csv"
    whole = file.read_text()

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(csv.DictWriter, "writerows", full)
        for step in (1, 2):
            logger.log_metrics({"loss": 0.5, "new": 2.0}, step)
        assert file.read_text() == whole
    assert capsys.readouterr().err == "metrics.csv: [Errno 28] No space left on device; the run goes on without it.\n"
    logger.log_metrics({"loss": 0.25}, 3)
    with file.open() as lines:
        rows = list(csv.DictReader(lines))
    assert [(row["step"], row["loss"], row["new"]) for row in rows] == [
        ("0", "1.0", ""),
        ("1", "0.5", "2.0"),
        ("2", "0.5", "2.0"),
        ("3", "0.25", ""),
    ]
    assert [path.name for path in file.parent.iterdir()] == ["metrics.csv"]


@pytest.mark.parametrize("torn", ["0.12", "0.5,3,4.0", "0.5,", "\0" * 40, "0.5\0\0"])
def test_a_torn_last_line_is_not_glued_to_the_next(tmp_path, torn):
    """As a power cut leaves it, and a disk that was full for a moment."""
    writer = AppendingCSVLogger(str(tmp_path))
    writer.log_metrics({"loss": 0.5}, step=1)
    file = tmp_path / "logs" / "metrics.csv"
    with file.open("a") as opened:
        opened.write(torn)
    again = AppendingCSVLogger(str(tmp_path))
    again.log_metrics({"loss": 0.25}, step=2)
    with file.open() as lines:
        assert [(row["step"], row["loss"]) for row in csv.DictReader(lines)] == [("1", "0.5"), ("2", "0.25")]


def test_what_a_full_disk_wrote_of_a_line_is_taken_back(tmp_path, capsys):
    """The file may grow by nine bytes, then nothing fits for a while."""
    logger = AppendingCSVLogger(str(tmp_path))
    logger.log_metrics({"loss": 0.5}, step=1)
    file = tmp_path / "logs" / "metrics.csv"
    before, limits = file.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 9, limits[1]))
    try:
        logger.log_metrics({"loss": 0.123456789123}, step=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.read_bytes() == before
    assert "File too large" in capsys.readouterr().err
    logger.log_metrics({"loss": 0.25}, step=3)
    with file.open() as lines:
        rows = [(row["step"], row["loss"]) for row in csv.DictReader(lines)]
    assert rows == [("1", "0.5"), ("2", "0.123456789123"), ("3", "0.25")]


def test_a_copied_run_of_hard_links_has_its_own_rows(tmp_path):
    AppendingCSVLogger(str(tmp_path / "one")).log_metrics({"loss": 0.5}, step=1)
    (tmp_path / "two" / "logs").mkdir(parents=True)
    one, two = (tmp_path / run / "logs" / "metrics.csv" for run in ("one", "two"))
    two.hardlink_to(one)
    AppendingCSVLogger(str(tmp_path / "two")).log_metrics({"loss": 0.25}, step=2)
    assert (one.read_text().count("\n"), two.read_text().count("\n")) == (2, 3)


def test_what_is_no_table_is_named(tmp_path):
    file = tmp_path / "logs" / "metrics.csv"
    file.parent.mkdir()
    file.write_bytes(b"\x8d\xff\n")
    with pytest.raises(ValueError, match=r"metrics\.csv is no table of metrics; move it away"):
        AppendingCSVLogger(str(tmp_path)).log_metrics({"loss": 0.5}, step=1)
    assert file.read_bytes() == b"\x8d\xff\n"


def test_a_damaged_row_ends_no_training(tmp_path):
    file = tmp_path / "logs" / "metrics.csv"
    file.parent.mkdir()
    file.write_bytes(b"loss,step\n" + b"1,2\n" * 5000 + b"\xff,3\n1,2,3,4\n")  # beyond what is read of it at first
    AppendingCSVLogger(str(tmp_path)).log_metrics({"loss": 0.5, "more": 1.0}, step=4)
    lines = file.read_bytes().splitlines()
    assert lines[0] == b"loss,more,step"
    assert lines[-3:] == [b"\xff,,3", b"1,,2", b"0.5,1.0,4"]


def test_csv_appends_after_a_restart_and_takes_new_columns(tmp_path):
    first = AppendingCSVLogger(str(tmp_path))
    first.log_metrics({"a": 1.0, "c": 4.0}, step=1)
    second = AppendingCSVLogger(str(tmp_path))
    second.log_metrics({"a": 2.0, "b": 3.0}, step=2)
    with (tmp_path / "logs" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows == [
        {"a": "1.0", "b": "", "c": "4.0", "step": "1"},
        {"a": "2.0", "b": "3.0", "c": "", "step": "2"},
    ]
