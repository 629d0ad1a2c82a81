"""The loaders a trainer sees: endless training batches that resume exactly, and evaluation batches without repeats.

The order lives in the parent process (sample_order.py) and workers only answer requests. So neither the number of
workers nor how they are started changes any batch, and every rank yields the same number of batches.
"""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from datamodules.image_samples import ImageSamples
from datamodules.restarting_loader import RestartingLoader
from datamodules.sample_order import EndlessOrder, require_position
from datamodules.skipped import Skipped
from datamodules.worker_trace import start_worker


@dataclass(frozen=True)
class Workers:
    """How batches are read: `count` worker processes (0: in this one), each `prefetch` batches ahead."""

    count: int = 1
    prefetch: int = 2
    start_method: str | None = None  # fork, spawn or forkserver; None is Python's default
    pin_memory: bool = False
    restarts: int = 3  # how often dead workers are replaced, see RestartingLoader; so is the next
    timeout: float = 0.0  # seconds that a worker may take for one sample; 0 means for ever

    def loader(
        self, source: Dataset, begin: Callable[[int], None], plan: Iterable[list] | None = None
    ) -> DataLoader | RestartingLoader:
        """Batches of `source` as it collates them: those of the plan, or, without one, those it yields by itself.

        begin: told how many batches of the pass have been handed over whenever they are asked for anew.
        """
        build = partial(self._loader, source, plan)
        return RestartingLoader(build, source, begin, self.restarts, self.timeout) if self.count else build()

    def _loader(self, source: Dataset, plan: Iterable[list] | None) -> DataLoader:
        several = self.count > 0
        context = multiprocessing.get_context(self.start_method) if several and self.start_method else None
        return DataLoader(
            source,
            batch_size=None if plan is None else 1,
            batch_sampler=plan,
            collate_fn=as_read,
            num_workers=self.count,
            prefetch_factor=self.prefetch if several else None,
            persistent_workers=several,
            multiprocessing_context=context,
            worker_init_fn=start_worker if several else None,
            pin_memory=self.pin_memory,
        )


def as_read(batch: dict[str, Any]) -> dict[str, Any]:
    """ImageSamples has collated already."""
    return batch


def accounted(batch: dict[str, Any], skipped: Skipped) -> dict[str, Any]:
    """The batch without its faults, which go into the account; ValueError if a worker could not go on."""
    if "stop" in batch:
        raise ValueError(batch["stop"])
    skipped.update(len(batch["key"]), batch.pop("faults"))
    return batch


@dataclass
class TrainPlan:
    """Which samples each batch holds: (pass, number) of positions [k*B, (k+1)*B) of the order, every world-th."""

    order: EndlessOrder
    batch_size: int
    steps: int
    rank: int
    world: int
    position: int = 0  # samples handed to the trainer so far, over all ranks
    done: int = 0  # batches of this pass among them

    def __len__(self) -> int:
        return self.steps

    def begin(self, done: int) -> None:
        """This many batches of the pass have been handed over; the position has moved on with them."""
        self.done = done

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        start = self.position
        for first in range(start, start + (self.steps - self.done) * self.batch_size, self.batch_size):
            numbers = self.order.take(first, first + self.batch_size)[self.rank :: self.world].tolist()
            positions = range(first + self.rank, first + self.batch_size, self.world)
            yield [(place // self.order.size, n) for place, n in zip(positions, numbers, strict=True)]


class TrainImages:
    """`steps` batches per pass of the trainer, from an endless order of which every position is used exactly once.

    The state is three whole numbers (seed, epoch, sample), independent of ranks and workers: which pass over the data,
    and how many samples of it have been handed over. It moves on before the batch is handed over, because the trainer
    may never come back for what stands after the yield. A resumed run may change workers, ranks and batch size.
    """

    def __init__(self, samples: ImageSamples, plan: TrainPlan, workers: Workers, skipped: Skipped):
        self.plan, self.skipped = plan, skipped
        self.loader = workers.loader(samples, plan.begin, plan)

    def __len__(self) -> int:
        return self.plan.steps

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self.loader:
            self.plan.position += self.plan.batch_size
            yield accounted(batch, self.skipped)

    def state_dict(self) -> dict[str, int]:
        epoch, sample = divmod(self.plan.position, self.plan.order.size)
        return {"seed": self.plan.order.key[0], "epoch": epoch, "sample": sample}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue where another stream stood; ValueError if it had another seed."""
        require_position(state, "seed", "epoch", "sample")
        if state["seed"] != self.plan.order.key[0]:
            raise ValueError(
                f"data seed {self.plan.order.key[0]}, but the checkpoint's run used {state['seed']}; give that one"
            )
        self.plan.position = state["epoch"] * self.plan.order.size + state["sample"]


class EvaluationPlan:
    """The same batches at every pass: lists of (0, number of the sample)."""

    def __init__(self, batches: list[list[tuple[int, int]]]):
        self.batches, self.done = batches, 0

    def __len__(self) -> int:
        return len(self.batches)

    def begin(self, done: int) -> None:
        """This many batches of the pass have been handed over."""
        self.done = done

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter(self.batches[self.done :])


class EvaluationImages:
    """Each sample once, in order: rank r has samples r, r + world, ...; every rank yields the same shapes.

    `weight` float32 [B] is 1, or 0 for samples that cannot be read and for those repeated so that all ranks have
    equally many: multiply by it, or drop those rows.
    """

    def __init__(
        self, samples: ImageSamples, batch_size: int, rank: int, world: int, workers: Workers, skipped: Skipped
    ):
        size = len(samples)
        self.rows = torch.arange(rank, -(-size // world) * world, world)
        self.real = (self.rows < size).split(batch_size)
        self.skipped = skipped
        plan = EvaluationPlan([[(0, row % size) for row in rows.tolist()] for rows in self.rows.split(batch_size)])
        self.loader = workers.loader(samples, plan.begin, plan)

    def __len__(self) -> int:
        return len(self.real)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for real, batch in zip(self.real, self.loader, strict=True):
            batch = accounted(batch, self.skipped)
            batch["weight"] *= real
            yield batch
