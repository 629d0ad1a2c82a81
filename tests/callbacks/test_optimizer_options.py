"""Options changed in the config reach a restored optimizer; everything else stays as the schedule left it."""

from types import SimpleNamespace

import pytest
import torch

from callbacks.optimizer_options import OptimizerOptions


def build(lr: float, weight_decay: float, schedule: bool):
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))], lr, weight_decay=weight_decay)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5) if schedule else None
    entries = [SimpleNamespace(scheduler=scheduler)] if schedule else []
    return SimpleNamespace(optimizers=[optimizer], lr_scheduler_configs=entries), optimizer, scheduler


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


def test_changes_without_a_schedule():
    assert resumed_lr(OLD, {"lr": 0.3, "weight_decay": 0.0}, schedule=False, steps=0) == (pytest.approx([0.3]), 0.0)


def test_a_rate_of_zero_can_be_raised():
    assert resumed_lr(OLD | {"lr": 0.0}, OLD, schedule=False, steps=0) == ([0.1], 0.01)
