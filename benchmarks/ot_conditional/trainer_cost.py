"""What a step costs more under the trainer than in a bare PyTorch loop of the same step.

    python benchmarks/ot_conditional/trainer_cost.py [--batch 128 1024] [--objective inverse_ot] [--segments 20]
    python benchmarks/ot_conditional/trainer_cost.py --without numeric_guard loss_spikes throughput

The run is configs/ot_conditional/swiss_roll.yaml as train.py builds it, with every default callback and logger (W&B
offline), in a temporary folder. Before each of its steps the bare loop takes the same step: a copy of the model, the
same batch, optimizer and schedule. So the two alternate in one process, and after every epoch they must hold the same
weights, bit for bit; x_noise is 0 for that. The clock stops where validation begins: validation and two checkpoints are
listed apart, as the end of an epoch. A segment is what the steps of one epoch took, but for its first.

The objective is the paper's by default: its step is short enough for a fixed cost to be seen beside it. `marginal`
spends a [Q, M, R] tensor on the product of all conditions and targets, in which the trainer disappears.
With --without every batch size is measured a second time without these callbacks, to see what they cost.
Wall-clock time suffers when the machine has other work; the processor time of this process, listed too, hardly does.
"""

import argparse
import copy
import ctypes
import itertools
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

import datamodules
import lightning_modules  # noqa: F401, class names in the config resolve among imported packages
from commands.process import quiet
from commands.train.command_line import CommandLine

ROOT = Path(__file__).parents[2]


class BareLoop:
    """A PyTorch training loop as one would write it for this model."""

    def __init__(self, module: LightningModule, data: datamodules.PairedVectorsDataModule, max_steps: int) -> None:
        self.model = copy.deepcopy(module.model)
        self.batches = data.train_dataloader()
        groups, h = self.model.parameter_groups(), module.hparams
        rates = [{"params": groups["cost"], "lr": h.cost_lr}, {"params": groups["potential"], "lr": h.potential_lr}]
        self.optimizer = torch.optim.AdamW(rates, weight_decay=0.0)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, max_steps)

    def epoch(self) -> Iterator[None]:
        """One pass of the loader, a step at a time."""
        for batch in self.batches:
            loss = torch.stack(list(self.model.losses(batch).values())).sum()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.scheduler.step()
            yield


class Alternate(Callback):
    """Takes a step of the bare loop before each step, times both. First callback: the others are on the clock."""

    def __init__(self) -> None:
        self.times: dict[str, list[Tensor]] = {"bare": [], "trainer": [], "between": []}
        self._epoch_ended: Tensor | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.bare = BareLoop(pl_module, trainer.datamodule, trainer.max_steps)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._epoch_ended is not None:
            self.times["between"].append(clocks() - self._epoch_ended)
        self._steps, self._spent = self.bare.epoch(), {"bare": torch.zeros(2), "trainer": torch.zeros(2)}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        now = clocks()
        if batch_idx > 1:  # the trainer fetches the first batches of an epoch before
            self._spent["trainer"] = self._spent["trainer"] + now - self._step_began
        next(self._steps)
        self._step_began = clocks()
        if batch_idx:
            self._spent["bare"] = self._spent["bare"] + self._step_began - now

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._spent["trainer"] = self._spent["trainer"] + clocks() - self._step_began
        for loop, spent in self._spent.items():
            self.times[loop].append(spent / (trainer.num_training_batches - 1))
        for ours, bare in zip(pl_module.model.parameters(), self.bare.model.parameters(), strict=True):
            assert torch.equal(ours, bare), "the trainer and the bare loop have taken different steps"
        self._epoch_ended = clocks()


def keep_memory() -> None:
    """Let glibc keep freed memory: returned and faulted in again at random it costs more than what is measured here."""
    with suppress(OSError, AttributeError):  # another C library
        library = ctypes.CDLL(None)
        for option, value in ((-4, 0), (-1, 2**31 - 1), (-2, 2**28)):  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD
            library.mallopt(option, value)


def clocks() -> Tensor:
    """Milliseconds of the wall clock and of this process's processor time [2]."""
    return 1e3 * torch.tensor([time.perf_counter(), time.process_time()], dtype=torch.float64)


def arguments(options: argparse.Namespace, batch: int, folder: str, without: Sequence[str]) -> list[str]:
    """The command line of train.py; without: keys of callbacks to leave out."""
    values = {
        "run_dir": folder,
        "test_after_fit": "false",
        "trainer.accelerator": "cpu",
        "trainer.max_steps": options.steps * (options.segments + 2),
        "data.init_args.path": ROOT / "data" / "swiss_roll",
        "data.init_args.batch_size": batch,
        "data.init_args.steps_per_epoch": options.steps,
        "model.init_args.model.init_args.objective": options.objective,
        "model.init_args.x_noise": 0.0,
        **{f"callbacks.{key}": "null" for key in without},
    }
    config = str(ROOT / "configs" / "ot_conditional" / "swiss_roll.yaml")
    return ["fit", "-c", config, *itertools.chain(*((f"--{key}", str(value)) for key, value in values.items()))]


def measure(options: argparse.Namespace, batch: int, without: Sequence[str] = ()) -> dict[str, Tensor]:
    """Milliseconds [segments, 2] of a step of either loop, and of what lies between two epochs.

    The first segment warms up and the last writes the final checkpoint: neither counts.
    """
    timing = Alternate()
    with tempfile.TemporaryDirectory() as folder:
        command = CommandLine(arguments(options, batch, folder, without), ROOT / "configs" / "trainer" / "default.yaml")
        command.trainer.callbacks.insert(0, timing)
        command.run()
    return {name: torch.stack(values[1:-1]) for name, values in timing.times.items()}


def rows(batch: int | str, times: dict[str, Tensor]) -> list[str]:
    """Two lines of the table: medians over the segments, quartiles of the extra time, ms per end of an epoch."""
    lines = []
    for clock, name in enumerate(("wall clock", "processor")):
        bare, trainer = (times[loop][:, clock] for loop in ("bare", "trainer"))
        extra = trainer - bare
        low, high = extra.quantile(torch.tensor([0.25, 0.75], dtype=extra.dtype))
        medians = " | ".join(f"{values.median():.2f}" for values in (bare, trainer, extra))
        ratio, between = (trainer / bare).median(), times["between"][:, clock].median()
        lines.append(f"| {batch} | {name} | {medians} | {low:.2f} to {high:.2f} | {ratio:.2f} | {between:.0f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    sizes = {"type": int, "nargs": "+", "default": [128, 1024]}
    parser.add_argument("--batch", **sizes, help="pairs, unpaired x and unpaired y per step")
    parser.add_argument("--objective", default="inverse_ot", choices=("inverse_ot", "blend", "marginal"))
    parser.add_argument("--steps", type=int, default=50, help="steps of one segment")
    parser.add_argument("--segments", type=int, default=20, help="segments of each loop that count")
    parser.add_argument("--without", nargs="+", default=[], metavar="CALLBACK", help="keys as in the config")
    options = parser.parse_args()
    table = []
    for batch in options.batch:
        table += rows(batch, measure(options, batch))
        if options.without:
            table += rows(f"{batch}, fewer", measure(options, batch, options.without))
    print(f"\n{options.objective}, {options.segments} x {options.steps} steps, cpu, 1 thread, ms\n")
    print("| B | clock | bare step | trainer step | extra | quartiles of extra | ratio | end of an epoch |")
    print("\n".join(["|" + "---|" * 8, *table]))


if __name__ == "__main__":
    torch.set_num_threads(1)
    keep_memory()
    quiet()
    main()
