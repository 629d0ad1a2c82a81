"""Vector data with few pairs and many unpaired rows, streamed from shards (vector_shards.py says what a folder holds).

train       x [P, Dx], y [P, Dy] pairs; x_unpaired [Q, Dx]; y_unpaired [R, Dy]; the three are drawn independently
val, test   x [B, Dx], y [B, Dy], index int64 [B] (row number in its split), weight float32 [B] (0 marks padding)
probe       x [G, K, Dx], y [G, K, Dy]: K true draws of y at (or near) one x; index int64 [G]; weight float32 [G]
Values are float32, as stored: `python -m datamodules.prepare` writes the standardisation it applied into index.json.
"""

from functools import cached_property
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule
from torch import Tensor

from datamodules.row_shortages import check_rows, num_rows, rows_used
from datamodules.sample_order import SUBSET, permutation
from datamodules.topology import topology
from datamodules.vector_batches import EvaluationBatches, Table, TrainBatches
from datamodules.vector_shards import ShardFolder, Split
from fewstep.files.table_columns import lists_of

PAIRS, VAL, UNPAIRED_X, UNPAIRED_Y = range(4)  # each subset has its own stream of random numbers


class PairedVectorsDataModule(LightningDataModule):
    """Semi-supervised pairs: `num_pairs` labelled pairs, of which a fraction only validates, beside unpaired x and y.

    Args:
        path: shard folder, local or s3://, gs://, https://, hf://.
        num_pairs: labelled pairs in all; round(num_pairs * val_fraction) of them come from split `val`, the others from
            `train_paired`. The pairs of a smaller number are among those of a larger one with the same seed. None means
            all of both splits, of `val` none where val_fraction is 0.
        num_unpaired_x, num_unpaired_y: rows of `train_x` and `train_y` to use; None means all.
        batch_size, unpaired_batch_size: rows per step over all processes; the second is the first unless given.
        eval_batch_size: rows per evaluation batch and process.
        steps_per_epoch: batches between two validations; the sets are walked through at their own pace.
        seed: which rows are used, and in which order.
    """

    def __init__(
        self,
        path: str,
        num_pairs: int | None = None,
        val_fraction: float = 0.25,
        num_unpaired_x: int | None = None,
        num_unpaired_y: int | None = None,
        batch_size: int = 128,
        unpaired_batch_size: int | None = None,
        eval_batch_size: int = 512,
        steps_per_epoch: int = 200,
        seed: int = 0,
    ):
        super().__init__()
        path = str(path)  # hyper-parameters go into checkpoints, which hold plain types only
        self.save_hyperparameters()
        if not 0 <= val_fraction < 1:
            raise ValueError(f"val_fraction={val_fraction}: give a fraction of the pairs, from 0 to below 1")
        if seed < 0:
            raise ValueError(f"seed={seed}: give a whole number from 0")
        sizes = {"num_pairs": num_pairs, "num_unpaired_x": num_unpaired_x, "num_unpaired_y": num_unpaired_y}
        sizes |= {"batch_size": batch_size, "unpaired_batch_size": unpaired_batch_size}
        for name, size in {**sizes, "eval_batch_size": eval_batch_size, "steps_per_epoch": steps_per_epoch}.items():
            if size is not None and size < 1:
                raise ValueError(f"{name}={size}: must be at least 1")
        if num_pairs is not None and round(num_pairs * val_fraction) == num_pairs:
            raise ValueError(f"num_pairs={num_pairs} with val_fraction={val_fraction} leaves no pair to train on")

    @cached_property
    def folder(self) -> ShardFolder:
        return ShardFolder(self.hparams.path)

    @property
    def x_dim(self) -> int:
        """Dx, known before setup."""
        return self._dim("x")

    @property
    def y_dim(self) -> int:
        """Dy, known before setup."""
        return self._dim("y")

    @cached_property
    def num_val(self) -> int:
        """Pairs that only validate."""
        h = self.hparams
        if h.num_pairs is not None:
            return round(h.num_pairs * h.val_fraction)
        return num_rows(self.folder, "val") if h.val_fraction and "val" in self.folder else 0

    @property
    def num_train(self) -> int:
        """Pairs that are trained on: as asked for, or all there are; known before setup."""
        asked = self.hparams.num_pairs
        return num_rows(self.folder, "train_paired") if asked is None else asked - self.num_val

    @property
    def columns(self) -> dict[str, Any]:
        """x_dim, y_dim and, where the index has them, the names, means and deviations of the columns of x and of y."""
        lists = (lists_of(self.folder.index, side) for side in "xy")
        return {"x_dim": self.x_dim, "y_dim": self.y_dim} | {k: v for found in lists for k, v in found.items()}

    @property
    def used(self) -> str:
        """One line: the folder, the rows that a training uses, and of how many."""
        h = self.hparams
        wanted = {"train_paired": self.num_train, "val": self.num_val}
        return (
            f"{h.path}: {rows_used(self.folder, wanted | {'train_x': h.num_unpaired_x, 'train_y': h.num_unpaired_y})}"
        )

    @property
    def y_names(self) -> list[str] | None:
        """Names of the columns of y, if the folder knows them."""
        return self.folder.index.get("y_names")

    def prepare_data(self) -> None:
        """Fetch a remote folder once per machine, before the processes read it together."""
        if self.folder.remote:
            for split in self.folder.index["splits"]:
                self.folder.open(split)

    def setup(self, stage: str) -> None:
        """Load the rows of this stage, so that a bad folder is reported before any step."""
        if stage == "fit":
            _ = self.train_tables
        if stage in ("fit", "validate") and self.num_val:
            _ = self.val_columns
        if stage == "test":
            _ = self.test_columns

    @cached_property
    def train_tables(self) -> list[Table]:
        """Pairs, unpaired x, unpaired y: float32 tensors in the order of their seeded subset."""
        h = self.hparams
        unpaired = h.unpaired_batch_size or h.batch_size
        check_rows(self.folder, h, self.num_val)
        pairs = self._subset("train_paired", "xy", self.num_train, PAIRS)
        x = self._subset("train_x", "x", h.num_unpaired_x, UNPAIRED_X)["x"]
        y = self._subset("train_y", "y", h.num_unpaired_y, UNPAIRED_Y)["y"]
        return [
            Table({"x": pairs["x"], "y": pairs["y"]}, h.batch_size),
            Table({"x_unpaired": x}, unpaired),
            Table({"y_unpaired": y}, unpaired),
        ]

    @cached_property
    def val_columns(self) -> dict[str, Tensor]:
        check_rows(self.folder, self.hparams, self.num_val, ("val",))
        return self._subset("val", "xy", self.num_val, VAL)

    @cached_property
    def test_columns(self) -> list[dict[str, Tensor]]:
        """Pairs, and probe groups when the folder has them."""
        return [self._subset("test", "xy")] + ([self._probes()] if "probe" in self.folder else [])

    def train_dataloader(self) -> TrainBatches:
        rank, world = topology(self.trainer)
        for name, size in (("batch_size", 0), ("unpaired_batch_size", 1)):
            if self.train_tables[size].batch_size % world:
                raise ValueError(
                    f"{name}={self.train_tables[size].batch_size} cannot be shared by {world} processes; "
                    f"choose a multiple of {world}"
                )
        return TrainBatches(self.train_tables, self.hparams.steps_per_epoch, self.hparams.seed, rank, world)

    def val_dataloader(self) -> EvaluationBatches | list:
        """The held-out pairs; an empty list when val_fraction leaves none."""
        if not self.num_val:
            return []
        return EvaluationBatches(self.val_columns, self.hparams.eval_batch_size, *topology(self.trainer))

    def test_dataloader(self) -> list[EvaluationBatches]:
        """[pairs, probes]; only [pairs] when the folder has no split `probe`."""
        rows_per_item = [columns["x"][0].numel() // self.x_dim for columns in self.test_columns]
        return [
            EvaluationBatches(columns, max(1, self.hparams.eval_batch_size // rows), *topology(self.trainer))
            for columns, rows in zip(self.test_columns, rows_per_item, strict=True)
        ]

    def reference(self, num: int | None = 4096) -> dict[str, Tensor]:
        """The first `num` rows (None: all) of x, y (pairs), x_unpaired and y_unpaired; the same in every process."""
        return {name: column[:num] for table in self.train_tables for name, column in table.columns.items()}

    def _dim(self, side: str) -> int:
        if side not in self.folder.dims:
            self._split("train_paired", "xy")
        return self.folder.dims[side]

    def _split(self, name: str, sides: str) -> Split:
        """Open a split that must have these sides."""
        split = self.folder.open(name)
        for side in sides:
            if getattr(split, side) is None:
                raise ValueError(
                    f"{self.folder.path}: split {name!r} has no {side} (KEY.{side}.npy); rebuild the folder"
                )
        return split

    def _subset(self, name: str, sides: str, size: int | None = None, stream: int | None = None) -> dict[str, Tensor]:
        """`size` rows of a split chosen by the seed (all when None), with `index`, their row numbers."""
        split = self._split(name, sides)
        available = int(split.group_sizes.sum())
        index = np.arange(available)
        if stream is not None:
            index = permutation(available, self.hparams.seed, SUBSET, stream)[:size]
        return {"index": torch.from_numpy(index)} | {s: torch.from_numpy(getattr(split, s).take(index)) for s in sides}

    def _probes(self) -> dict[str, Tensor]:
        """x [groups, K, Dx], y [groups, K, Dy] and the group numbers."""
        split = self._split("probe", "xy")
        sizes = set(split.group_sizes.tolist())
        if len(sizes) > 1:
            raise ValueError(f"{self.folder.path}: probe groups have {sorted(sizes)} rows; they must be equally large")
        groups = len(split.group_sizes)
        rows = np.arange(groups * sizes.pop())
        values = {s: torch.from_numpy(getattr(split, s).take(rows)).unflatten(0, (groups, -1)) for s in "xy"}
        return {"index": torch.arange(groups)} | values
