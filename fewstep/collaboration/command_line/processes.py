"""Several processes that share what a command does: those of torchrun, or as many of this machine as --devices says."""

import json
import logging
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch.distributed import Store, TCPStore, rendezvous
from torch.multiprocessing import ProcessExitedException, get_context, spawn

PATIENCE = timedelta(days=365)  # with the slowest process, whose share may take long
MISTAKE = 2  # exit code of a process that has told what was wrong


@dataclass(frozen=True)
class Ranks:
    """This process among `world` of them: its number, that on its machine, and where they leave word for each other."""

    rank: int = 0
    world: int = 1
    local: int = 0
    store: Store | None = None

    def share(self, whole: Sequence[int]) -> list[int]:
        """Every one of `whole`, the same on all ranks, is in the share of one of them."""
        return list(whole[self.rank :: self.world])

    def told(self, name: str, value: Any) -> Any:
        """The value, which JSON can write, that the first rank has under this name; the others wait for it."""
        if self.store is None:
            return value
        if self.rank == 0:
            self.store.set(name, json.dumps(value))
        return json.loads(self.store.get(name))

    def wait(self, name: str) -> None:
        """On the first rank until all others have come here, too."""
        if self.store is not None and self.rank > 0:
            self.store.set(f"{name} {self.rank}", "")
        elif self.store is not None:
            self.store.wait([f"{name} {rank}" for rank in range(1, self.world)])

    def device(self, name: str) -> str:
        """Of several accelerators of a machine that which is this rank's; ValueError where the name says which."""
        kind, _, number = name.partition(":")
        if self.world == 1 or kind in ("cpu", "mps"):
            return name
        if number:
            raise ValueError(f"--device {name} is one for {self.world} processes; give {kind}, and each takes its own")
        return f"{kind}:{self.local}"


def ranks_of_torchrun() -> Ranks:
    """As torchrun or another launcher tells them by RANK, WORLD_SIZE and so on; one process alone where none does.

    ValueError in one line where it tells only a part of that.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return Ranks()
    store, rank, world = next(rendezvous("env://"))
    store.set_timeout(PATIENCE)
    return Ranks(rank, world, int(os.environ.get("LOCAL_RANK", rank)), store)


def in_processes(work: Callable[[Namespace, Ranks], str], options: Namespace) -> str:
    """work(options, its ranks) in options.devices processes of this machine; what the first of them returns.

    ValueError in one line where one of them makes a mistake or dies, which ends the others, too.
    """
    count, answers = options.devices, get_context("spawn").SimpleQueue()
    check_count(count, options.device)
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)  # it warns of each that it ends
    try:
        spawn(_one_rank, (work, options, count, store.port, answers), count, daemon=True)
    except ProcessExitedException as error:
        if error.exit_code == MISTAKE:
            raise ValueError(answers.get()) from None
        how = error.signal_name or f"exit code {error.exit_code}"
        told = f"process {error.error_index} of {count} ended with {how}, and the others with it"
        raise ValueError(f"{told}; the same command goes on from what is there") from None
    return str(answers.get())


def shown_progress(parts: Sequence[int], told: str, ranks: Ranks) -> Iterable[int]:
    """The parts of a share, one by one, with a bar on the first rank's terminal; nothing is shown elsewhere."""
    from rich.console import Console
    from rich.progress import track

    told += f", as every one of {ranks.world} processes" * (ranks.world > 1)
    console = Console(stderr=True)
    return track(parts, told, console=console, transient=True, disable=ranks.rank > 0 or not console.is_terminal)


def check_count(count: int, device: str) -> None:
    """ValueError in one line for less than one, or for more than there are accelerators or, for cpu, processors."""
    kind = device.partition(":")[0]
    what = "processors" if kind == "cpu" else "accelerators"
    there = os.cpu_count() or 1 if kind == "cpu" else torch.accelerator.device_count()
    if not 1 <= count <= there:
        raise ValueError(f"--devices {count}: this machine has {there} {what} for --device {device}")


def _one_rank(rank: int, work: Callable[..., str], options: Namespace, world: int, port: int, answers: Any) -> None:
    store = TCPStore("127.0.0.1", port, is_master=False)
    store.set_timeout(PATIENCE)
    torch.set_num_threads(max(torch.get_num_threads() // world, 1))
    try:
        answer = work(options, Ranks(rank, world, rank, store))
    except (ValueError, OSError) as error:
        answers.put(str(error))
        sys.exit(MISTAKE)
    if rank == 0:
        answers.put(answer)
