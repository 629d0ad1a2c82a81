"""What the data left out reaches the logger; data without an account log nothing."""

import csv

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger

from callbacks import SkippedSamples
from datamodules.skipped import Skipped
from tests.callbacks.tiny_run import TinyData, TinyModule


def logged(folder, data):
    """Values of data/skipped in the CSV of six steps, logged every second one."""
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = Trainer(
        max_steps=6,
        accelerator="cpu",
        logger=CSVLogger(folder),
        callbacks=[SkippedSamples()],
        log_every_n_steps=2,
        **quiet,
    )
    trainer.fit(TinyModule(), data)
    with open(f"{trainer.logger.log_dir}/metrics.csv", newline="") as file:
        return [row["data/skipped"] for row in csv.DictReader(file) if row.get("data/skipped")]


def test_the_count_is_logged_at_logging_steps(tmp_path):
    data = TinyData()
    data.skipped = Skipped()
    data.skipped.update(1000, [("not_an_image", "a.tar:1", ""), ("empty_file", "a.tar:2", "")])
    assert logged(tmp_path, data) == ["2.0"] * 3


def test_data_without_an_account_log_nothing(tmp_path):
    assert logged(tmp_path, TinyData()) == []
