"""The pictures of `train.py predict` as files."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image

from callbacks.metrics.image_outputs import counted, real_images, to_pictures
from callbacks.pictures.sample_grid import draw_grid
from fewstep.files.names import safe_name, write_new
from fewstep.gathering import gather
from fewstep.one_line import one_line


class PictureWriter(Callback):
    """Writes RUN/predictions/KEY.png for every picture, and sheet.png with the first of them beside their sources.

    Args:
        folder: another folder than RUN/predictions.
        sheet: pictures on the sheet, at most; 0 for no sheet.
        columns: pictures in a row of it.

    No file is overwritten: where KEY.png is taken, KEY-2.png is written. Several processes write into one folder; the
    first one draws the sheet and says where the pictures are.
    """

    def __init__(self, folder: str | None = None, sheet: int = 24, columns: int = 6) -> None:
        if sheet < 0 or columns < 1:
            raise ValueError(f"sheet={sheet}, columns={columns}: give 0 or more, and 1 or more")
        self.folder, self.sheet, self.columns = folder, sheet, columns

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._into = Path(self.folder or Path(trainer.default_root_dir, "predictions"))
        self._written: list[str] = []
        self._samples: list[dict[str, Any]] = []

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        rows = counted(batch)
        if not isinstance(outputs, dict) or "image" not in outputs:
            raise ValueError(f"the predict_step of {type(pl_module).__name__} returns no dict with `image`")
        made = to_pictures(outputs["image"], rows.rows, "`image` of the outputs").cpu().numpy()
        for key, picture in zip(rows.keys, made, strict=True):
            self._written.append(str(self._write(f"{safe_name(key)}.png", as_png(picture))))
        if len(self._samples) < self.sheet:
            self._samples += _samples(batch, rows.rows, rows.keys, made)[: self.sheet - len(self._samples)]

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        parts = gather((self._written, self._samples))
        if trainer.is_global_zero:
            self._finish([name for names, _ in parts for name in names], [s for _, some in parts for s in some])

    def _finish(self, written: list[str], samples: list[dict[str, Any]]) -> None:
        print(f"pictures  {written[0] if len(written) == 1 else f'{len(written)} in {self._into}'}")
        if samples[: self.sheet]:
            page = io.BytesIO()
            draw_grid(samples[: self.sheet], self.columns).save(page, "png")
            print(f"sheet     {self._write('sheet.png', page.getvalue())}")

    def _write(self, name: str, content: bytes) -> Path:
        """Where it lies now; OSError with the one `line` that ends the run, since pictures are all that it is for."""
        try:
            return write_new(self._into / name, content)
        except OSError as error:
            error.line = f"{self._into / name} not written: {one_line(error)}; free the disk or name another folder"
            raise


def as_png(picture: np.ndarray) -> bytes:
    """PNG file of uint8 [3, H, W]."""
    file = io.BytesIO()
    Image.fromarray(picture.transpose(1, 2, 0)).save(file, "png")
    return file.getvalue()


def _samples(batch: dict[str, Any], rows: torch.Tensor, keys: list[str], made: np.ndarray) -> list[dict[str, Any]]:
    """What a sheet shows of every picture."""
    kept = [i for i, keep in enumerate(rows.tolist()) if keep]
    sources = real_images(batch, counted(batch)).cpu().numpy() if "image" in batch else None
    samples = []
    for place, (i, key) in enumerate(zip(kept, keys, strict=True)):
        caption = batch.get("caption", keys)[i]
        if "target" in batch:
            caption = f"{caption} → {batch['target'][i]}"
        pictures = {} if sources is None else {"source": sources[place]}
        pictures["edited" if "target" in batch else "image"] = made[place]
        samples.append({"key": key, "caption": caption, **pictures})
    return samples
