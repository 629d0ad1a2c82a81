"""Rehearse one rank of many in one process: every collective answers as if all ranks held what this one holds."""

import os
from argparse import Namespace
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric.utilities.distributed import _InfiniteBarrier
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.trainer.connectors import data_connector

from commands.train.run_directory import RUN_ID_VARIABLE

LOADERS = {"train": "train_dataloader", "validation": "val_dataloader", "test": "test_dataloader"}


def take_ranks(settings: Namespace) -> int:
    """How many ranks the config asks for; `settings.trainer` is changed to one process on what this machine has.

    1, and nothing changed, for one rank or when torchrun, SLURM or MPI has started the ranks already.
    """
    trainer, started = settings.trainer, {"WORLD_SIZE", "LOCAL_RANK", "SLURM_PROCID"} & set(os.environ)
    devices = str(trainer.devices)
    count = len(trainer.devices) if isinstance(trainer.devices, list) else int(devices) if devices.isdigit() else 1
    ranks = count * trainer.num_nodes
    if ranks == 1 or started or RUN_ID_VARIABLE in os.environ:
        return 1
    trainer.devices, trainer.num_nodes = 1, 1
    if not torch.cuda.is_available() and trainer.accelerator in ("gpu", "cuda"):
        trainer.accelerator = "cpu"
    return ranks


def rehearsal(trainer: Mapping[str, Any], ranks: int) -> dict[str, Any]:
    """Options of a Trainer that replace those of `trainer` so that one process acts as rank 0 of `ranks`.

    Source: torchtitan runs its large configs on torch's fake process group in the same way.
    """
    if ranks == 1:
        return {}
    from torch.testing._internal.distributed.fake_pg import FakeProcessGroup, FakeStore

    options = FakeProcessGroup.Options()
    if not hasattr(options, "simulate_uniform_ranks"):
        raise ValueError(f"torch {torch.__version__} cannot rehearse {ranks} ranks; use --trainer.devices 1")
    options.simulate_uniform_ranks = True
    data_connector._InfiniteBarrier = barrier  # type: ignore[assignment, misc]
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks, pg_options=options)
    given = trainer["plugins"] or []
    plugins = [*(given if isinstance(given, list) else [given]), RehearsedRanks(ranks)]
    strategy = trainer["strategy"]
    return {"plugins": plugins, "strategy": strategy if isinstance(strategy, Strategy) or strategy != "auto" else "ddp"}


def barrier() -> Any:
    """Lightning's around `prepare_data`, but where ranks are rehearsed: its group of gloo's would crash there."""
    return nullcontext() if dist.is_initialized() and dist.get_backend() == "fake" else _InfiniteBarrier()


class RehearsedRanks(LightningEnvironment):
    """An environment of `ranks` processes, of which this one is `rank` (0 unless changed)."""

    def __init__(self, ranks: int) -> None:
        super().__init__()
        self.ranks, self.rank = ranks, 0

    @property
    def creates_processes_externally(self) -> bool:
        return True

    def world_size(self) -> int:
        return self.ranks

    def set_world_size(self, size: int) -> None:
        """Nothing: one device is at work."""

    def global_rank(self) -> int:
        return self.rank

    def set_global_rank(self, rank: int) -> None:
        """Nothing."""

    def local_rank(self) -> int:
        return 0


def batches_per_rank(trainer: Trainer) -> dict[str, str]:
    """Table rows with the number of batches that each rank gets.

    Errors: ValueError when the ranks of one loader differ, because the longer ones would wait for ever.
    """
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if not isinstance(environment, RehearsedRanks) or trainer.datamodule is None:
        return {}
    rows = {}
    for name, method in LOADERS.items():
        lengths: dict[str, int] = {}  # length -> the first rank that has it
        for rank in range(environment.ranks):
            environment.rank = rank
            try:
                lengths.setdefault(count_batches(getattr(trainer.datamodule, method)()), rank)
            except NotImplementedError:  # Lightning's answer for a loader that the data do not have
                break
        environment.rank = 0
        if len(lengths) > 1:
            found = ", ".join(f"{length} on rank {rank}" for length, rank in lengths.items())
            raise ValueError(f"the ranks get different numbers of {name} batches: {found}; the longer ones would wait")
        if lengths:
            rows[f"{name} batches"] = f"{next(iter(lengths))} on each of {environment.ranks} ranks"
    return rows


def count_batches(loaders: Any) -> str:
    """`12`, `12 + 3` for several loaders, `unbounded` for a stream without a length."""
    try:
        return " + ".join(str(len(loader)) for loader in (loaders if isinstance(loaders, list) else [loaders]))
    except TypeError:
        return "unbounded"
