"""Batches of rows: endless seeded permutations for training (sample_order.py), each row once for evaluation."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from datamodules.sample_order import ORDER, EndlessOrder, require_position


class Table(NamedTuple):
    """Columns of equal length that are drawn together, `batch_size` rows per step (over all processes)."""

    columns: dict[str, Tensor]
    batch_size: int


class TrainBatches:
    """`steps_per_epoch` dict batches per pass; batch k has positions [k*B, (k+1)*B) of each table's endless order.

    A table with fewer rows than its batch wraps round, so shapes never change. Rank r of `world` processes takes every
    world-th row of the batch. The state is one integer, the number of the next batch; it moves on before the batch is
    handed over, because the trainer may never come back for what stands after the yield.
    """

    def __init__(self, tables: list[Table], steps_per_epoch: int, seed: int, rank: int = 0, world: int = 1):
        self.tables, self.steps_per_epoch, self.rank, self.world = tables, steps_per_epoch, rank, world
        self.orders = [
            EndlessOrder(len(next(iter(table.columns.values()))), seed, ORDER, number)
            for number, table in enumerate(tables)
        ]
        self.step = 0

    def __len__(self) -> int:
        return self.steps_per_epoch

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for _ in range(self.steps_per_epoch):
            self.step += 1
            yield self.batch(self.step - 1)

    def batch(self, step: int) -> dict[str, Tensor]:
        """Batch number `step`, counted from the start of the run."""
        drawn = {}
        for table, order in zip(self.tables, self.orders, strict=True):
            positions = order.take(step * table.batch_size, (step + 1) * table.batch_size)
            rows = torch.from_numpy(positions[self.rank :: self.world])
            drawn |= {name: column.index_select(0, rows) for name, column in table.columns.items()}
        return drawn

    def state_dict(self) -> dict[str, int]:
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        require_position(state, "step")
        self.step = state["step"]


class EvaluationBatches:
    """Each row once, in order: rank r takes rows r, r + world, ...; every rank yields the same shapes.

    A batch has every column (among them `index`, int64) and `weight` float32 [B]: 1, or 0 for rows that are repeated
    so that all ranks have equally many.
    """

    def __init__(self, columns: dict[str, Tensor], batch_size: int, rank: int = 0, world: int = 1):
        self.columns, self.batch_size = columns, batch_size
        self.size = len(columns["index"])
        self.rows = torch.arange(rank, -(-self.size // world) * world, world)

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for rows in self.rows.split(self.batch_size):
            gathered = {name: column[rows % self.size] for name, column in self.columns.items()}
            yield {**gathered, "weight": (rows < self.size).float()}
