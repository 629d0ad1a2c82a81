"""Rows that a conditional model is asked about: a table of x, in the units and with the columns that it learnt from.

x float64 [B, Dx], y float64 [B, Dy] if given, index int64 [B], weight float32 [B] (0 marks padding), and what is
wanted of them: num_samples, levels. They stay on the CPU and in float64 until they are standardised.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule

from datamodules.number_table import read_table, titles_of
from datamodules.topology import topology
from datamodules.vector_batches import EvaluationBatches


class TableRequests(LightningDataModule):
    """What `train.py predict` asks a model of p(y|x).

    Args:
        x: a .csv, .tsv, .parquet (where pyarrow is installed) or .npy file. Its columns are found by the names of those
            that the model learnt from, in any order and among others; where one of the two has no names, the first Dx
            columns are x.
        y: file with the y whose densities are wanted, row by row. Not needed where the columns of y stand in the file
            of x as well.
        num_samples: draws of y for each x; 0 for none.
        levels: of the quantiles, in (0, 1).
        batch_size: rows at a time, per process.
        encoding, decimal_comma: of text files, as of `python -m datamodules.prepare table`.
    """

    def __init__(
        self,
        x: str,
        y: str | None = None,
        num_samples: int = 100,
        levels: Sequence[float] = (0.05, 0.25, 0.5, 0.75, 0.95),
        batch_size: int = 256,
        encoding: str | None = None,
        decimal_comma: bool = False,
    ) -> None:
        super().__init__()
        if num_samples < 0 or batch_size < 1:
            raise ValueError(f"num_samples={num_samples}, batch_size={batch_size}: give 0 or more, and 1 or more")
        if wrong := [level for level in levels if not 0 < level < 1]:
            raise ValueError(f"levels={wrong[0]}: give levels above 0 and below 1, such as 0.05")
        self.files = {side: Path(file) for side, file in (("x", x), ("y", y)) if file is not None}
        if absent := [file for file in self.files.values() if not file.is_file()]:
            raise ValueError(f"no file {absent[0]}")
        self.wanted: dict[str, Any] = {"num_samples": num_samples, "levels": tuple(levels)}
        self.batch_size, self.reading = batch_size, (encoding, decimal_comma)

    @property
    def name(self) -> str:
        """Of the results."""
        return self.files["x"].stem

    def predict_dataloader(self) -> EvaluationBatches:
        columns = read_rows(self.files, self.trainer.lightning_module.conditional().units, self.reading)
        tensors = {side: torch.from_numpy(np.ascontiguousarray(rows, np.float64)) for side, rows in columns.items()}
        tensors["index"] = torch.arange(len(tensors["x"]))
        return EvaluationBatches(tensors, self.batch_size, *topology(self.trainer))

    def transfer_batch_to_device(self, batch: dict[str, Any], device: torch.device, dataloader_idx: int) -> dict:
        """Beside the rows, which stay where they are, what is wanted of them."""
        return batch | self.wanted


def read_rows(files: dict[str, Path], units: Any, reading: tuple[str | None, bool]) -> dict[str, np.ndarray]:
    """x [N, Dx] and, where it is given, y [N, Dy] by the names and dimensions of `units`; ValueError in one line."""
    found = {"x": _side(files["x"], units.x_names, units.x_dim, (units.x_dim + units.y_dim,), reading)}
    titles = titles_of(files["x"], reading[0])
    if "y" in files:
        found["y"] = _side(files["y"], units.y_names, units.y_dim, (), reading)
        if len(found["x"]) != len(found["y"]):
            raise ValueError(f"{files['x']} has {len(found['x'])} rows and {files['y']} {len(found['y'])}")
    elif titles is not None and units.x_names and units.y_names:
        there = [name for name in units.y_names if name in titles and name not in units.x_names]
        if there and (lacking := [name for name in units.y_names if name not in there]):
            raise ValueError(
                f"{files['x']}: of y it has {', '.join(there)}, but not {lacking[0]}; add it or leave all out"
            )
        if there:
            found["y"] = _side(files["x"], units.y_names, units.y_dim, (), reading)
    elif found["x"].shape[1] > units.x_dim:
        found["y"] = found["x"][:, units.x_dim :]
    return found | {"x": found["x"][:, : units.x_dim]}


def _side(
    file: Path, names: list[str] | None, dim: int, others: tuple[int, ...], reading: tuple[str | None, bool]
) -> np.ndarray:
    """The named columns of a file, or all of a file without names, which are `dim` or one of the other numbers."""
    rows = read_table(file, names if titles_of(file, reading[0]) is not None else None, *reading)[0]
    if rows.shape[1] not in (dim, *others):
        raise ValueError(f"{file}: {rows.shape[1]} columns, the model takes {dim}")
    return rows
