"""Metrics as a CSV file that survives a resume."""

import csv
import os
import sys
from contextlib import suppress
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.loggers.logger import rank_zero_experiment

from fewstep.files.durable import replace_file, replacing


class AppendingCSVLogger(CSVLogger):
    """Lightning's CSV logger in one file, SAVE_DIR/logs/metrics.csv, to which a resumed run appends.

    Every logging event reaches the disk at once, so a killed run loses nothing. After a resume from an earlier step the
    repeated steps appear twice; the later row counts. A last line that a power cut or a full disk tore is cut off.
    Errors: ValueError for a file there that is no text.
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
    said = False

    def save(self) -> None:
        """Write what is not yet written; where that fails it is said once, kept in memory and tried again later."""
        try:
            super().save()
        except (OSError, csv.Error) as error:
            if not self.said:
                print(f"metrics.csv: {error}; the run goes on without it.", file=sys.stderr, flush=True)
            self.said = True
            with suppress(OSError):  # cutting needs no space, but the disk may be gone
                self._check_log_dir_exists()  # the columns are those of the file, whatever was about to be added

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        """Lightning empties the file before it writes it anew, which on a full disk is all that remains."""
        target = Path(self.metrics_file_path)
        with (
            replacing(target) as partial,
            target.open(newline="", encoding="utf-8", errors="surrogateescape") as old,
            partial.open("w", newline="", encoding="utf-8", errors="surrogateescape") as new,
        ):
            writer = csv.DictWriter(new, fieldnames=fieldnames, extrasaction="ignore")  # of a damaged row
            writer.writeheader()
            writer.writerows(csv.DictReader(old))

    def _check_log_dir_exists(self) -> None:
        """Take over the columns of an existing file instead of deleting it."""
        existing = Path(self.metrics_file_path)
        if existing.is_file():
            _cut_torn_line(existing)
            try:
                with existing.open(newline="", encoding="utf-8") as file:
                    self.metrics_keys = next(csv.reader(file), [])
            except (UnicodeDecodeError, csv.Error):
                raise ValueError(f"{existing} is no table of metrics; move it away") from None


def _cut_torn_line(file: Path) -> None:
    """Leave whole lines only, in a file of its own: a copied run's may be another name of the same one."""
    content = file.read_bytes()
    end = content.rfind(b"\n") + 1
    if file.stat().st_nlink > 1:
        replace_file(file, content[:end])
    elif end < len(content):
        os.truncate(file, end)
