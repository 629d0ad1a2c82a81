"""What a run says before it starts and when it is done."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.table import Table

from callbacks.checkpoints.printed_commands import evaluate_command
from commands.train.next_use import next_use


@rank_zero_only
def print_header(trainer: Trainer, module: LightningModule, folder: Path) -> None:
    """Four lines: where the run writes, what is trained, on which data, by which device."""
    trainable = sum(p.numel() for p in module.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in module.parameters() if not p.requires_grad)
    data = type(trainer.datamodule).__name__ if trainer.datamodule else "the module's own data"
    print(f"run     {folder}")
    print(
        f"model   {type(module).__name__}, {trainable:,} trainable parameters" + f", {frozen:,} frozen" * bool(frozen)
    )
    used = getattr(trainer.datamodule, "used", None)  # of a table, whose counts may be null: all there are
    print(f"data    {data}" + f", {used}" * bool(used))
    where = f"{trainer.world_size} x {trainer.strategy.root_device.type}"
    print(f"device  {where}, precision {trainer.precision}", flush=True)


@rank_zero_only
def print_metrics(results: Sequence[Mapping[str, float]], title: str) -> None:
    """One table of all metrics that a validation or test returned."""
    merged = {name: value for result in results for name, value in result.items()}
    table = Table()
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name in sorted(merged):
        table.add_row(name, f"{merged[name]:.5g}")
    print(title)
    Console().print(table)


@rank_zero_only
def print_next_step(
    folder: Path, checkpoint: str | Path | None, upload: str | None, dashboard: str | None = None
) -> None:
    """Where everything is and which command comes next."""
    print(f"run directory  {folder}")
    if checkpoint:
        print(f"next           {evaluate_command(checkpoint, folder / 'evaluation')}")
    if upload:
        print(f"upload         {upload}")
    if dashboard:
        print(f"dashboard      {dashboard}")


@rank_zero_only
def print_export(folder: str, module: LightningModule) -> None:
    """Where the network is for other programs, and the command that takes it."""
    print(f"export         {folder}")
    if command := next_use(folder, module):
        print(f"use            {command}")


@rank_zero_only
def print_early_stop(told: str) -> None:
    """That a training is shorter than its config says."""
    print(f"stopped early  {told}", flush=True)
