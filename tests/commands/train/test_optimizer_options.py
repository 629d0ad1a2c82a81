"""Options changed in the config reach a restored optimizer; everything else stays as the schedule left it."""

import math
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision

from commands.train.optimizer_options import OptimizerOptions
from fewstep.optimizers import scheduled


def build(lr: float, weight_decay: float, schedule: bool):
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))], lr, weight_decay=weight_decay)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5) if schedule else None
    entries = [SimpleNamespace(scheduler=scheduler)] if schedule else []
    options = {"optimizers": [optimizer], "lr_scheduler_configs": entries, "precision_plugin": None}
    return SimpleNamespace(**options, gradient_clip_val=None), optimizer, scheduler


def resumed_lr(old: dict, new: dict, schedule: bool, steps: int) -> tuple[list[float], float]:
    """Learning rates and weight decay after `steps` steps, a restart with `new`, and further steps."""
    trainer, optimizer, scheduler = build(**old, schedule=schedule)
    before = OptimizerOptions()
    before.on_fit_start(trainer, None)
    for _ in range(steps * schedule):
        optimizer.step()
        scheduler.step()
    saved = optimizer.state_dict(), scheduler and scheduler.state_dict(), before.state_dict()

    trainer, optimizer, scheduler = build(**new, schedule=schedule)
    after = OptimizerOptions()
    after.load_state_dict(saved[2])
    after.on_fit_start(trainer, None)
    optimizer.load_state_dict(saved[0])
    if schedule:
        scheduler.load_state_dict(saved[1])
    after.on_train_start(trainer, None)
    rates = [optimizer.param_groups[0]["lr"]]
    for _ in range(2 * schedule):
        optimizer.step()
        scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    return rates, optimizer.param_groups[0]["weight_decay"]


OLD = {"lr": 0.1, "weight_decay": 0.01}


def test_without_changes_the_scheduled_rate_goes_on():
    assert resumed_lr(OLD, OLD, schedule=True, steps=3) == (pytest.approx([0.0125, 0.00625, 0.003125]), 0.01)


def test_a_changed_rate_keeps_the_shape_of_the_schedule():
    rates, _ = resumed_lr(OLD, OLD | {"lr": 0.4}, schedule=True, steps=3)
    assert rates == pytest.approx([0.05, 0.025, 0.0125])


@pytest.mark.parametrize("later", [4, 8])
def test_a_cosine_falls_to_the_new_last_step(later):
    """A run of 4 steps that goes on to step 8 has the rates of one of 8 from there on, not of 4 risen again."""

    def built(steps: int):
        optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))], 0.1)
        schedule = scheduled(optimizer, steps)["lr_scheduler"]["scheduler"]
        options = {"optimizers": [optimizer], "lr_scheduler_configs": [SimpleNamespace(scheduler=schedule)]}
        trainer = SimpleNamespace(**options, precision_plugin=None, gradient_clip_val=None)
        callback = OptimizerOptions()
        callback.on_fit_start(trainer, None)
        return trainer, optimizer, schedule, callback

    trainer, optimizer, schedule, callback = built(4)
    for _ in range(4):
        optimizer.step()
        schedule.step()
    saved = optimizer.state_dict(), schedule.state_dict()
    assert optimizer.param_groups[0]["lr"] == 0
    trainer, optimizer, schedule, callback = built(later)
    optimizer.load_state_dict(saved[0])
    schedule.load_state_dict(saved[1])
    callback.on_train_start(trainer, None)
    rates = [optimizer.param_groups[0]["lr"]]
    for _ in range(later - 4):
        optimizer.step()
        schedule.step()
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.05 * (1 + math.cos(math.pi * step / later)) for step in range(4, later + 1)])


def test_changes_without_a_schedule():
    assert resumed_lr(OLD, {"lr": 0.3, "weight_decay": 0.0}, schedule=False, steps=0) == (pytest.approx([0.3]), 0.0)


def test_a_rate_of_zero_can_be_raised():
    assert resumed_lr(OLD | {"lr": 0.0}, OLD, schedule=False, steps=0) == ([0.1], 0.01)


@pytest.mark.parametrize(
    ("sizes", "schedule", "expected"),
    [
        (([2], [1]), False, "the checkpoint has 2 optimizers, the config makes 1"),
        (([3],), False, r"optimizer 0 of the checkpoint has \[3\] parameters in its groups, the config's has \[1\]"),
        (([1],), True, "the checkpoint has 0 schedules, the config makes 1"),
        (([1],), False, None),
    ],
)
def test_other_optimizers_are_refused_before_the_run_starts(sizes, schedule, expected):
    parameters = [[torch.nn.Parameter(torch.zeros(1)) for _ in range(n)] for (n,) in sizes]
    stored = {"optimizer_states": [torch.optim.SGD(p, 0.1).state_dict() for p in parameters], "lr_schedulers": []}
    trainer, *_ = build(0.1, 0.0, schedule)
    callback = OptimizerOptions()
    callback.on_load_checkpoint(trainer, None, stored)
    if expected is None:
        callback.on_fit_start(trainer, None)
    else:
        with pytest.raises(ValueError, match=expected):
            callback.on_fit_start(trainer, None)


def test_a_fused_optimizer_cannot_be_clipped_in_mixed_precision():
    """Lightning says so with a traceback in the first step."""
    trainer, optimizer, _ = build(**OLD, schedule=False)
    trainer.precision_plugin, trainer.precision = MixedPrecision("bf16-mixed", "cpu"), "bf16-mixed"
    trainer.gradient_clip_val = 1.0
    OptimizerOptions().on_fit_start(trainer, None)
    fused = torch.optim.AdamW(optimizer.param_groups[0]["params"], fused=True)
    trainer.optimizers = [fused]
    with pytest.raises(RuntimeError, match="does not allow for gradient clipping"):
        trainer.precision_plugin.clip_gradients(fused, 1.0)
    with pytest.raises(ValueError, match=r"AdamW\(fused=True\) cannot clip gradients under bf16-mixed"):
        OptimizerOptions().on_fit_start(trainer, None)
