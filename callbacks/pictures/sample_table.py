"""A table of single samples: prompt, pictures and every score that is known of them."""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor

from callbacks.metrics.image_outputs import counted, generated_images, real_images
from callbacks.metrics.measurements import KeepsRows
from callbacks.metrics.rows import SampleValues
from callbacks.pictures.side_files import write_or_say
from fewstep.gathering import gather

NUMBERS = ("score", "nfe")  # of the outputs, [B] each


class SampleTableCallback(Callback):
    """Writes RUN/tables/test_samples/STEP.csv after a test and hands the table with pictures to the W&B logger.

    Args:
        max_rows: samples in the table: those with the lowest keys, so that the same ones are seen every time.
        max_bytes: of the PNG pictures of one table together; W&B gets as many of the rows as fit.
        every_n_validations: the same (val_samples) after every so many validations of a training run; None for never.
        fields: image fields of the outputs; those that the outputs lack are left out.
        original: a field of the batch to show as well, such as `image`; None for none.

    Columns: key, prompt, pictures, `score` and `nfe` of the outputs, and the values per sample of other callbacks
    (those with `rows`, such as CLIPScoreCallback). The values of all samples, not only of those in the table, go to
    W&B as histograms `val/NAME_of_samples`.
    """

    def __init__(
        self,
        max_rows: int = 64,
        max_bytes: int = 4_000_000,
        every_n_validations: int | None = None,
        fields: tuple[str, ...] = ("image", "reference", "reconstruction"),
        original: str | None = None,
    ) -> None:
        every = 1 if every_n_validations is None else every_n_validations
        if min(max_rows, max_bytes, every) < 1 or not fields:
            raise ValueError(
                f"max_rows={max_rows}, max_bytes={max_bytes}, every_n_validations={every_n_validations}, "
                f"fields={list(fields)}: give 1 or more of each"
            )
        self.max_rows, self.max_bytes, self.every_n_validations = max_rows, max_bytes, every_n_validations
        self.fields, self.original = tuple(fields), original
        self._validations = 0
        self._due = False

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._validations += 1
        every = self.every_n_validations
        self._start(every is not None and not trainer.sanity_checking and self._validations % every == 0)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start(True)

    def _start(self, due: bool) -> None:
        self._due, self._samples, self._values = due, {}, SampleValues()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: dict[str, Any],
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not self._due or dataloader_idx:
            return
        rows = counted(batch)
        numbers = {name: outputs[name][rows.rows] for name in NUMBERS if name in (outputs or {})}
        self._values.add(rows.keys, **numbers)
        lowest = set(sorted([*self._samples, *rows.keys])[: self.max_rows])
        wanted = [i for i, key in enumerate(rows.keys) if key in lowest]
        if not wanted:
            return
        present = [field for field in self.fields if field in outputs] or list(self.fields[:1])
        images = {field: generated_images(outputs, rows, field)[wanted].cpu().numpy() for field in present}
        if self.original:
            images = {"original": real_images(batch, rows, self.original)[wanted].cpu().numpy()} | images
        for j, i in enumerate(wanted):
            pictures = {field: values[j].copy() for field, values in images.items()}
            self._samples[rows.keys[i]] = {"key": rows.keys[i], "prompt": rows.captions[i]} | pictures
        self._samples = {key: sample for key, sample in self._samples.items() if key in lowest}

    on_test_batch_end = on_validation_batch_end

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write("val", trainer)  # after on_validation_epoch_end, in which the others bring their values together

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write("test", trainer)

    def _write(self, stage: str, trainer: Trainer) -> None:
        if not self._due:
            return
        keys, values = self._values.gather()
        parts = gather(self._samples)
        samples = {key: sample for part in parts for key, sample in part.items()}
        if samples and not trainer.fast_dev_run:
            values |= _values_of_others(trainer, stage, len(keys))
            self._save(stage, trainer, [samples[key] for key in sorted(samples)[: self.max_rows]], keys, values)

    @rank_zero_only
    def _save(
        self, stage: str, trainer: Trainer, samples: list[dict[str, Any]], keys: list[str], values: dict[str, Tensor]
    ) -> None:
        place = {key: i for i, key in enumerate(keys)}
        rows = [s | {name: column[place[s["key"]]].item() for name, column in values.items()} for s in samples]
        folder = Path(trainer.default_root_dir) / "tables" / f"{stage}_samples"
        writer = csv.DictWriter(table := io.StringIO(newline=""), ["key", "prompt", *values], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
        write_or_say(folder / f"{trainer.global_step:08d}.csv", table.getvalue().encode())
        columns, cells = list(rows[0]), _with_png(rows, self.max_bytes)
        histograms = {f"{stage}/{name}_of_samples": column.numpy() for name, column in values.items()}
        for logger in trainer.loggers:
            if hasattr(logger, "log_sample_table") and cells:
                logger.log_sample_table(f"{stage}/sample_table", columns, cells, trainer.global_step)
            if hasattr(logger, "log_histograms"):
                logger.log_histograms(histograms, trainer.global_step)


def _values_of_others(trainer: Trainer, stage: str, num: int) -> dict[str, Tensor]:
    """Name -> [num] on the CPU, in the order of the keys, of every callback that keeps such values of this stage."""
    found: dict[str, Tensor] = {}
    for callback in trainer.callbacks:
        rows = callback.rows if isinstance(callback, KeepsRows) else None
        for key, column in rows.items() if isinstance(rows, dict) else ():  # a user's callback may call a list so
            if str(key).startswith(f"{stage}/") and isinstance(column, Tensor) and column.shape == (num,):
                found[key.removeprefix(f"{stage}/")] = column.cpu()
    return found


def _with_png(rows: list[dict[str, Any]], max_bytes: int) -> list[list[Any]]:
    """The first rows whose pictures, uint8 [3, H, W], take at most max_bytes as PNG."""
    from PIL import Image

    cells, total = [], 0
    for row in rows:
        line = []
        for value in row.values():
            if isinstance(value, np.ndarray):
                file = io.BytesIO()
                Image.fromarray(value.transpose(1, 2, 0)).save(file, "PNG")
                value = file.getvalue()
                total += len(value)
            line.append(value)
        if total > max_bytes:
            break
        cells.append(line)
    return cells
