"""A picture of the same few samples at every evaluation, with their captions."""

import io
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from callbacks.metrics.gathering import gather
from callbacks.metrics.image_outputs import counted, generated_images, real_images
from callbacks.pictures.side_files import write_or_say

if TYPE_CHECKING:
    from PIL import Image, ImageFont

LEAST_SIDE, MARGIN, TEXT, LINES = 112, 8, 11, 3  # pixels, pixels, font size in pixels, lines of a caption
INK, GREY, PAPER = "#333333", "#777777", "#ffffff"
Sample = dict[str, Any]  # "key", "caption", numbers such as "score", and uint8 [3, H, W] by field name


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
        self._samples: list[Sample] = []

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
        parts = gather(trainer, self._samples)
        samples = sorted((sample for part in parts for sample in part), key=lambda sample: sample["key"])
        if samples and not trainer.sanity_checking and not trainer.fast_dev_run:
            self._save(stage, trainer, samples[: self.num_images])

    @rank_zero_only
    def _save(self, stage: str, trainer: Trainer, samples: list[Sample]) -> None:
        folder = Path(trainer.default_root_dir) / "pictures" / f"{stage}_samples"
        path = folder / f"{trainer.global_step:08d}.png"
        draw_grid(samples, self.columns).save(page := io.BytesIO(), "png")
        for logger in trainer.loggers if write_or_say(path, page.getvalue()) else ():
            if hasattr(logger, "log_image"):
                logger.log_image(key=f"{stage}/samples", images=[str(path)])


def draw_grid(samples: list[Sample], columns: int = 8) -> "Image.Image":
    """Each sample: its images one below the other, enlarged by whole factors, its caption, score and passes."""
    from PIL import Image, ImageDraw

    names = [name for name, value in samples[0].items() if isinstance(value, np.ndarray)]
    height, width = (max(sample[name].shape[i] for sample in samples for name in names) for i in (1, 2))
    factor = max(1, -(-LEAST_SIDE // min(height, width)))
    height, width = height * factor, width * factor
    font, small = _font(TEXT), _font(TEXT - 2)
    labels = max((small.getbbox(name)[2] for name in names), default=0) + MARGIN if len(names) > 1 else 0
    numbers = any(name in samples[0] for name in ("score", "nfe"))
    cell = (width + MARGIN, len(names) * (height + 2) + (LINES + numbers) * (TEXT + 3) + 2 * MARGIN)
    columns = min(columns, len(samples))
    size = (labels + columns * cell[0] + MARGIN, -(-len(samples) // columns) * cell[1] + MARGIN)
    page = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(page)
    for number, sample in enumerate(samples):
        left, top = labels + MARGIN + number % columns * cell[0], MARGIN + number // columns * cell[1]
        for name in names:
            if number % columns == 0 and labels:
                pen.text((MARGIN // 2, top + height // 2), name, GREY, small, anchor="lm")
            picture = Image.fromarray(sample[name].transpose(1, 2, 0))
            whole = (picture.width * factor, picture.height * factor)
            page.paste(picture.resize(whole, Image.Resampling.NEAREST), (left, top))
            top += height + 2
        for line in _wrapped(sample["caption"] or sample["key"], font, width):
            pen.text((left, top), line, INK, font)
            top += TEXT + 3
        values = [f"score {sample['score']:.3g}"] if "score" in sample else []
        values += [f"{sample['nfe']:.3g} passes"] if "nfe" in sample else []
        pen.text((left, top), "  ".join(values), GREY, small)
    return page


def _wrapped(text: str, font: "ImageFont.FreeTypeFont", width: int) -> list[str]:
    """At most LINES lines that fit; the last one ends in an ellipsis where something was left out."""
    characters = max(int(width / font.getlength("n")), 8)
    printable = "".join(c if c.isprintable() else " " for c in text)
    return textwrap.wrap(printable, characters, max_lines=LINES, placeholder=" …")


def _font(size: int) -> "ImageFont.FreeTypeFont":
    """DejaVu Sans, which matplotlib brings along: PIL's own font knows Latin letters only."""
    import matplotlib as mpl
    from PIL import ImageFont

    return ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)
