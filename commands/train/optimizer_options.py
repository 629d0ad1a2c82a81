"""Let the config, not the checkpoint, decide learning rates and other options of a resumed run."""

import sys
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch.optim.lr_scheduler import LambdaLR

from commands.train.optimizer_state import (
    add_missing_options,
    require_same_kinds,
    require_same_sizes,
    without_moments,
)
from fewstep.optimizer_options import RANGES, check_option

Options = list[list[dict[str, Any]]]  # optimizer, parameter group, name -> value


class OptimizerOptions(Callback):
    """Apply options that changed since the checkpoint; restoring an optimizer's state would bring the old ones back.

    An option whose configured value is the same as when the checkpoint was written is left alone, and with it whatever
    a schedule has made of it. A changed learning rate is scaled by new / old, so that a schedule keeps its shape.
    Errors: ValueError for an option outside its range, in any module's optimizers; when the checkpoint has another
    number of optimizers, parameters or schedules, or holds for them what they cannot go on with; for a fused optimizer
    and clipping in mixed precision.
    """

    def __init__(self) -> None:
        self._configured: Options = []
        self._stored: Options = []
        self._restored: tuple[list, list] | None = None  # of the checkpoint: optimizers, schedules
        self._steps = 0  # of the checkpoint

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._steps = checkpoint.get("global_step", 0)
        self._restored = (checkpoint.get("optimizer_states", []), checkpoint.get("lr_schedulers", []))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _check_ranges(trainer)
        _refuse_fused_and_clipped(trainer)
        # The optimizers exist by now and have not been restored yet.
        if self._restored is not None:
            schedules = [entry.scheduler for entry in trainer.lr_scheduler_configs]
            require_same_sizes(*self._restored, trainer.optimizers, schedules)
            require_same_kinds(*self._restored, trainer.optimizers, schedules)
            for line in without_moments(self._restored[0], trainer.optimizers) if self._steps else ():
                rank_zero_only(print)(line, file=sys.stderr)
            self._restored = None
        self._configured = [
            [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
            for optimizer in trainer.optimizers
        ]

        if self._stored and list(map(len, self._stored)) != list(map(len, self._configured)):
            raise ValueError(
                "the checkpoint's OptimizerOptions are not those of its optimizers; use an older checkpoint"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for optimizer, configured in zip(trainer.optimizers, self._configured, strict=True):
            add_missing_options(optimizer.param_groups, configured)
        triples = zip(trainer.optimizers, self._stored, self._configured, strict=False)
        for optimizer, stored, configured in triples:
            for group, old, new in zip(optimizer.param_groups, stored, configured, strict=True):
                _apply(group, old, new)
        for entry in trainer.lr_scheduler_configs:
            if hasattr(entry.scheduler, "base_lrs"):
                entry.scheduler.base_lrs = [g["initial_lr"] for g in entry.scheduler.optimizer.param_groups]
            if isinstance(entry.scheduler, LambdaLR):
                _take_place(entry.scheduler)

    def state_dict(self) -> dict[str, Options]:
        return {"configured": self._configured}

    def load_state_dict(self, state_dict: dict[str, Options]) -> None:
        self._stored = state_dict["configured"]


def _take_place(schedule: LambdaLR) -> None:
    """Rates of the step that comes next, by the schedule as it is now: that of the checkpoint may have ended in 0."""
    groups = schedule.optimizer.param_groups
    for group, base, share in zip(groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
        group["lr"] = base * share(schedule.last_epoch)
    schedule._last_lr = [group["lr"] for group in groups]


def _check_ranges(trainer: Trainer) -> None:
    """Optimizers check the options that all groups share; those of a single group they take as they are."""
    for optimizer in trainer.optimizers:
        for group in optimizer.param_groups:
            for name in RANGES.keys() & group.keys():
                check_option(name, group[name], f"{type(optimizer).__name__}: {name}")
    clip = trainer.gradient_clip_val
    if clip is not None and not 0 <= clip < float("inf"):
        raise ValueError(f"trainer.gradient_clip_val={clip}: must be finite, at least 0")


def _refuse_fused_and_clipped(trainer: Trainer) -> None:
    """Lightning's mixed precision cannot clip for an optimizer that unscales by itself, and says so after a step."""
    mixed = isinstance(trainer.precision_plugin, MixedPrecision)
    for optimizer in trainer.optimizers if mixed and trainer.gradient_clip_val else []:
        if getattr(optimizer, "_step_supports_amp_scaling", False):
            name = f"{type(optimizer).__name__}(fused=True)"
            raise ValueError(f"{name} cannot clip gradients under {trainer.precision}: set fused or clipping off")


def _apply(group: dict[str, Any], old: dict[str, Any], new: dict[str, Any]) -> None:
    for name in new.keys() & old.keys():
        if new[name] == old[name]:
            continue
        scheduled = name == "lr" and old[name] != 0
        group[name] = group[name] * new[name] / old[name] if scheduled else new[name]
