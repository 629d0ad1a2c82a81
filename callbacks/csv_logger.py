"""Metrics as a CSV file that survives a resume."""

import csv
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.loggers.logger import rank_zero_experiment


class AppendingCSVLogger(CSVLogger):
    """Lightning's CSV logger in one file, SAVE_DIR/logs/metrics.csv, to which a resumed run appends.

    Every logging event reaches the disk at once, so a killed run loses nothing. After a resume from an earlier step the
    repeated steps appear twice; the later row counts.
    """

    def __init__(self, save_dir: str) -> None:
        super().__init__(save_dir, name="logs", version="", flush_logs_every_n_steps=1)

    @property
    @rank_zero_experiment
    def experiment(self) -> "_AppendingWriter":
        if self._experiment is None:
            self._experiment = _AppendingWriter(log_dir=self.log_dir)
        return self._experiment


class _AppendingWriter(ExperimentWriter):
    def _check_log_dir_exists(self) -> None:
        """Take over the columns of an existing file instead of deleting it."""
        existing = Path(self.metrics_file_path)
        if existing.is_file():
            with existing.open(newline="") as file:
                self.metrics_keys = next(csv.reader(file), [])
