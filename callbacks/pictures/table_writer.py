"""What `train.py predict` is told by a conditional model, as tables and a picture."""

import io
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.metrics.rows import EvaluationRows
from fewstep.files.names import safe_name, write_new
from fewstep.one_line import one_line
from fewstep.transport.predictions import sample_table, summary_table


class TableWriter(Callback):
    """Writes RUN/predictions/NAME.csv, a line for each row of the table NAME, and NAME-samples.csv, one for each draw.

    Args:
        folder: another folder than RUN/predictions.
        plot: number of a row, from 1, of whose p(y|x) NAME-density.png is drawn.

    No file is overwritten: where NAME.csv is taken, NAME-2.csv is written.
    """

    def __init__(self, folder: str | None = None, plot: int | None = None) -> None:
        if plot is not None and plot < 1:
            raise ValueError(f"plot={plot}: give the number of a row, from 1")
        self.folder, self.plot = folder, plot

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._rows, self._levels = EvaluationRows(), ()

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: dict[str, Tensor],
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        asked = {side: batch[side] for side in "xy" if side in batch}
        self._rows.add(batch["index"], batch["weight"], **asked, **outputs)
        self._levels = batch["levels"]

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        told = self._rows.gather()  # before on_predict_end, where EMA takes the averaged weights out again
        if not trainer.is_global_zero:
            return
        if self.plot is not None and self.plot > len(told["x"]):
            raise ValueError(f"plot={self.plot}: the table has {len(told['x'])} rows")
        into = Path(self.folder or Path(trainer.default_root_dir, "predictions"))
        name, model = safe_name(trainer.datamodule.name, "table"), pl_module.conditional()
        _write("table", into / f"{name}.csv", summary_table(model.units, self._levels, told["x"], told))
        if "sample" in told:
            _write("samples", into / f"{name}-samples.csv", sample_table(model.units, told["sample"]))
        if self.plot is not None:
            from fewstep.transport.density_plot import draw_density

            row = self.plot - 1
            figure = draw_density(model, told["x"][row], told["y"][row] if "y" in told else None)
            figure.savefig(page := io.BytesIO(), format="png", dpi=150, facecolor="white")
            _write("plot", into / f"{name}-density.png", page.getvalue())


def _write(what: str, path: Path, content: bytes) -> None:
    """Say where it lies now; OSError with the one `line` that ends the run, since that is all that it is for."""
    try:
        print(f"{what:<8}{write_new(path, content)}")
    except OSError as error:
        error.line = f"{path} not written: {one_line(error)}; free the disk or name another folder"
        raise
