"""Restored options, moments and schedules are of the kinds that this run's own have."""

import copy
import math
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

from commands.train.optimizer_state import (
    add_missing_options,
    require_same_kinds,
    require_same_sizes,
    without_moments,
)

SCHEDULES = [
    lambda o: lr_scheduler.CosineAnnealingLR(o, 10),
    lambda o: lr_scheduler.LambdaLR(o, lambda step: 1.0 / (1 + step)),
    lambda o: lr_scheduler.ReduceLROnPlateau(o),
    lambda o: lr_scheduler.MultiStepLR(o, [2, 4]),
    lambda o: lr_scheduler.OneCycleLR(o, 0.1, 10, cycle_momentum=False),
    lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o), lr_scheduler.CosineAnnealingLR(o, 9)], milestones=[2]
    ),
    lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
]
OPTIMIZERS = [
    lambda p: torch.optim.AdamW(p, 0.1),
    lambda p: torch.optim.Adam(p, torch.tensor(0.1), amsgrad=True),
    lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
    lambda p: torch.optim.SGD(p, 0.1),
    lambda p: torch.optim.RMSprop(p, 0.1, centered=True),
    lambda p: torch.optim.Adafactor(p, 0.1),
]


def built(optimizer: Any, schedule: Any, steps: int) -> tuple[Any, Any]:
    layer = torch.nn.Linear(3, 2)
    made = optimizer(layer.parameters())
    planned = schedule(made)
    for _ in range(steps):
        layer(torch.ones(1, 3)).sum().backward()
        made.step()
        planned.step(*[1.0] * isinstance(planned, lr_scheduler.ReduceLROnPlateau))
    return made, planned


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_what_a_run_has_saved_is_taken_over(optimizer, schedule):
    if optimizer is OPTIMIZERS[1] and schedule is SCHEDULES[4]:
        schedule = SCHEDULES[0]  # torch: OneCycleLR writes into a learning rate that is a tensor
    old, planned = built(optimizer, schedule, 5)
    new, fresh = built(optimizer, schedule, 0)
    states = [old.state_dict()], [planned.state_dict()]
    require_same_sizes(*states, [new], [fresh])
    require_same_kinds(*states, [new], [fresh])


@pytest.mark.parametrize(
    ("where", "value", "expected"),
    [
        (("param_groups", 0, "lr"), "fast", "lr is 'fast', expected a number"),
        (("param_groups", 0, "lr"), math.nan, "lr is nan"),
        (("param_groups", 0, "lr"), -1.0, r"lr=-1\.0: must be finite, at least 0"),
        (("param_groups", 0, "lr"), 10**400, "lr is a number of 1329 bits"),
        (("param_groups", 0, "params"), [100, 101], "has moments for parameter 0, which is in none of its groups"),
        (("param_groups", 0, "betas"), [0.9], r"betas is \[0.9\], expected a list of 2"),
        (("param_groups", 0, "amsgrad"), [1], "amsgrad is"),
        (("param_groups", 0, "amsgrad"), -1, "amsgrad is -1, expected true or false"),
        (("param_groups", 0, "amsgrad"), "no", "amsgrad is 'no'"),
        (("param_groups", 0, "amsgrad"), True, "has no max_exp_avg_sq for parameter 0"),
        (("param_groups", 0, "eps"), None, "eps is None"),
        (("param_groups", 0, "fused"), math.nan, "fused is nan, expected true or false"),
        (("param_groups", 0, "foreach"), "no", "foreach is 'no', expected true or false"),
        (("param_groups", 0, "betas"), [0.9, True], "betas is True, expected a number"),
        (("param_groups", 0, "lr"), torch.tensor(True), "lr is a tensor of shape"),
        (("state", 0, "exp_avg"), torch.zeros(7), r"exp_avg of parameter 0 is a tensor of shape \(7,\), expected"),
        (("state", 0, "exp_avg_sq"), 3, "exp_avg_sq of parameter 0 is 3"),
        (("state", 1, "step"), math.nan, "step of parameter 1 is nan"),
        (("state", 1, "step"), torch.tensor(-5.0), r"step of parameter 1 is -5\.0, expected a number of steps"),
        (("state", 0, "exp_avg"), torch.zeros(2, 3).to_sparse(), "is a sparse_coo tensor of shape"),
        (("state", 0, "exp_avg"), torch.zeros(1).expand(2, 3), "expected a tensor that holds its values"),
        (("T_max",), 0, "T_max is 0, expected a positive number"),
        (("state", 1), {"step": 2}, "has no exp_avg for parameter 1"),
        (("base_lrs",), [0.1, 0.1], "base_lrs is"),
        (("last_epoch",), "3", "last_epoch is '3'"),
        (("last_epoch",), -5, "last_epoch is -5"),
        (("_step_count",), 10**400, "_step_count is a number of"),
        (("get_lr",), 3, "unknown key 'get_lr'"),
        (("optimizer",), "x", "unknown key 'optimizer'"),
    ],
)
def test_what_is_of_another_kind_is_named(where, value, expected):
    old, planned = built(OPTIMIZERS[0], SCHEDULES[0], 2)
    new, fresh = built(OPTIMIZERS[0], SCHEDULES[0], 0)
    states = copy.deepcopy(old.state_dict()), copy.deepcopy(planned.state_dict())
    *parents, key = where
    node = states[0] if parents else states[1]
    for parent in parents:
        node = node[parent]
    node[key] = value
    with pytest.raises(ValueError, match=expected) as error:
        require_same_kinds([states[0]], [states[1]], [new], [fresh])
    assert "\n" not in str(error.value)


def test_a_schedule_of_another_kind_is_named():
    old, planned = built(OPTIMIZERS[0], SCHEDULES[0], 2)
    new, fresh = built(OPTIMIZERS[0], SCHEDULES[1], 0)
    with pytest.raises(ValueError, match="the checkpoint's schedule 0 is no LambdaLR; resume with the run's own"):
        require_same_kinds([old.state_dict()], [planned.state_dict()], [new], [fresh])


@pytest.mark.parametrize(
    ("plain", "more"),
    [
        (lambda p: torch.optim.AdamW(p, 0.1), lambda p: torch.optim.AdamW(p, 0.1, amsgrad=True)),
        (lambda p: torch.optim.RMSprop(p, 0.1), lambda p: torch.optim.RMSprop(p, 0.1, centered=True)),
        (lambda p: torch.optim.RMSprop(p, 0.1), lambda p: torch.optim.RMSprop(p, 0.1, momentum=0.9)),
    ],
)
def test_an_option_that_needs_a_moment_cannot_be_switched_on(plain, more):
    """Off is no matter: the moment is left alone."""
    for before, now, fails in ((plain, more, True), (more, plain, False), (more, more, False), (plain, plain, False)):
        (old, planned), (new, fresh) = built(before, SCHEDULES[0], 2), built(now, SCHEDULES[0], 0)
        states = [old.state_dict()], [planned.state_dict()]
        if not fails:
            require_same_kinds(*states, [new], [fresh])
            continue
        with pytest.raises(ValueError, match=r"has no \w+ for parameter 0"):
            require_same_kinds(*states, [new], [fresh])
        options = {k: v for k, v in new.param_groups[0].items() if k != "params"}
        new.load_state_dict(states[0][0])
        new.param_groups[0].update(options)  # as OptimizerOptions does
        for parameter in new.param_groups[0]["params"]:
            parameter.grad = torch.ones_like(parameter)
        with pytest.raises(KeyError):
            new.step()


def test_options_that_the_checkpoint_lacks_are_those_of_the_config():
    old, _ = built(OPTIMIZERS[0], SCHEDULES[0], 2)
    new, _ = built(OPTIMIZERS[0], SCHEDULES[0], 0)
    state, configured = copy.deepcopy(old.state_dict()), [dict(group) for group in new.param_groups]
    del state["param_groups"][0]["betas"]
    new.load_state_dict(state)
    add_missing_options(new.param_groups, configured)
    assert new.param_groups[0]["betas"] == (0.9, 0.999)


def test_moments_that_the_checkpoint_lacks_are_told_once():
    (old, _), (new, _) = built(OPTIMIZERS[0], SCHEDULES[0], 2), built(OPTIMIZERS[0], SCHEDULES[0], 0)
    state = copy.deepcopy(old.state_dict())
    assert without_moments([state], [new]) == []
    del state["state"][0]
    require_same_kinds([state], [], [new], [])
    (line,) = without_moments([state], [new])
    assert "optimizer 0: the checkpoint has no moments for 1 of 2 parameters" in line
    new.param_groups[0]["params"][0].requires_grad = False
    assert without_moments([state], [new]) == []
    plain, fresh = built(OPTIMIZERS[3], SCHEDULES[0], 2)[0], built(OPTIMIZERS[3], SCHEDULES[0], 0)[0]
    assert without_moments([plain.state_dict()], [fresh]) == []
