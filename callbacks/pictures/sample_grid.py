"""A picture of the same few samples at every evaluation, with their captions."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from PIL import Image

from callbacks.metrics.image_outputs import counted, generated_images, real_images
from callbacks.pictures.side_files import write_or_say
from fewstep.files.contact_sheet import Sample, contact_sheet
from fewstep.gathering import gather

Drawn = dict[str, Any]  # "key", "caption", numbers such as "score", and uint8 [3, H, W] by field name


class SampleGridCallback(Callback):
    """Writes RUN/pictures/val_samples/STEP.png (or test_samples/) and hands it to every logger that takes images.

    Args:
        num_images: those with the lowest keys, so that the same ones are seen at every evaluation.
        fields: image fields of the outputs, from top to bottom; those that the outputs lack are left out.
        original: a field of the batch to show above them, such as `image`; None for none.
        columns: samples in a row.

    `score` and `nfe` [B] of the outputs stand below the caption.
    """

    def __init__(
        self,
        num_images: int = 16,
        fields: tuple[str, ...] = ("image", "reference", "reconstruction"),
        original: str | None = None,
        columns: int = 8,
    ) -> None:
        if num_images < 1 or columns < 1 or not fields:
            raise ValueError(
                f"num_images={num_images}, columns={columns}, fields={list(fields)}: give 1 or more of each"
            )
        self.num_images, self.fields, self.original, self.columns = num_images, tuple(fields), original, columns

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._samples: list[Drawn] = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: dict[str, Any],
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if dataloader_idx:
            return
        rows = counted(batch)
        last = self._samples[-1]["key"] if len(self._samples) == self.num_images else None
        wanted = [i for i, key in enumerate(rows.keys) if last is None or key < last]
        if not wanted:
            return
        present = [field for field in self.fields if field in (outputs or {})] or list(self.fields[:1])
        images = {field: generated_images(outputs, rows, field).cpu() for field in present}
        if self.original:
            images = {"original": real_images(batch, rows, self.original).cpu()} | images
        numbers = {name: outputs[name][rows.rows].tolist() for name in ("score", "nfe") if name in outputs}
        for i in wanted:
            sample = {"key": rows.keys[i], "caption": rows.captions[i]}
            sample |= {name: values[i] for name, values in numbers.items()}
            self._samples.append(sample | {field: values[i].numpy().copy() for field, values in images.items()})
        self._samples = sorted(self._samples, key=lambda sample: sample["key"])[: self.num_images]

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write("val", trainer)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write("test", trainer)

    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_end = on_validation_batch_end

    def _write(self, stage: str, trainer: Trainer) -> None:
        parts = gather(self._samples)
        samples = sorted((sample for part in parts for sample in part), key=lambda sample: sample["key"])
        if samples and not trainer.sanity_checking and not trainer.fast_dev_run:
            self._save(stage, trainer, samples[: self.num_images])

    @rank_zero_only
    def _save(self, stage: str, trainer: Trainer, samples: list[Drawn]) -> None:
        folder = Path(trainer.default_root_dir) / "pictures" / f"{stage}_samples"
        path = folder / f"{trainer.global_step:08d}.png"
        draw_grid(samples, self.columns).save(page := io.BytesIO(), "png")
        for logger in trainer.loggers if write_or_say(path, page.getvalue()) else ():
            if hasattr(logger, "log_image"):
                logger.log_image(key=f"{stage}/samples", images=[str(path)])


def draw_grid(samples: list[Drawn], columns: int = 8) -> Image.Image:
    """Each sample: its images one below the other, enlarged by whole factors, its caption, score and passes."""
    return contact_sheet([_shown(sample) for sample in samples], columns)


def _shown(drawn: Drawn) -> Sample:
    arrays = {name: value for name, value in drawn.items() if isinstance(value, np.ndarray)}
    notes = [f"score {drawn['score']:.3g}"] if "score" in drawn else []
    notes += [f"{drawn['nfe']:.3g} passes"] if "nfe" in drawn else []
    pictures = {name: Image.fromarray(value.transpose(1, 2, 0)) for name, value in arrays.items()}
    return Sample(drawn["caption"] or drawn["key"], pictures, "  ".join(notes))
