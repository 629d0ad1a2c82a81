"""What a checkpoint holds for optimizers and schedules, compared with those of this run before they take it over.

Both set what they find as their own attributes, and fail at the first step if it is of another kind.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from fewstep.files.plain_reader import dense, number, positive, refuse, shown, whole
from fewstep.optimizer_options import RANGES, check_option

States = Sequence[Mapping[str, Any]]

KEPT_FOR = {"amsgrad": "max_exp_avg_sq", "centered": "grad_avg"}  # option -> moment without which a step fails
MOMENTS = {"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "momentum_buffer", "square_avg", "grad_avg", "sum"}
PERIODS = ("T_max", "T_0", "total_steps", "step_size")  # in steps, by which schedules of torch divide
SWITCHES = ("foreach", "fused")  # None, the usual value, lets torch choose
ELEMENTWISE = ("Adam", "AdamW", "Adamax", "Adagrad", "NAdam", "RAdam", "RMSprop", "SGD")  # of torch.optim


def require_same_sizes(
    states: States, schedule_states: States, optimizers: Sequence[Optimizer], schedules: Sequence[Any]
) -> None:
    """ValueError for another number of optimizers, schedules or parameters.

    Lightning drops what is too many without a word and finds misfits once the run directory has been written.
    """
    for name, stored, now in (("optimizers", states, optimizers), ("schedules", schedule_states, schedules)):
        if len(stored) != len(now):
            raise ValueError(
                f"the checkpoint has {len(stored)} {name}, the config makes {len(now)}; "
                "resume with the run's own config or start a new run"
            )
    for place, (state, optimizer) in enumerate(zip(states, optimizers, strict=True)):
        old, new = _sizes(state["param_groups"]), _sizes(optimizer.param_groups)
        if old != new:
            raise ValueError(
                f"optimizer {place} of the checkpoint has {old} parameters in its groups, the config's has {new}; "
                "resume with the run's own config or start a new run"
            )


def _sizes(groups: Sequence[Mapping[str, Any]]) -> list[int]:
    return [len(group["params"]) for group in groups]


def require_same_kinds(
    states: States, schedule_states: States, optimizers: Sequence[Optimizer], schedules: Sequence[Any]
) -> None:
    """ValueError for an option, a moment or a part of a schedule that is of another kind than this run's own."""
    for place, (state, optimizer) in enumerate(zip(states, optimizers, strict=True)):
        name = f"the checkpoint's optimizer {place}"
        for old, new in zip(state["param_groups"], optimizer.param_groups, strict=True):
            for key in (old.keys() & new.keys()) - {"params"}:
                own = True if key in SWITCHES else new[key]
                _like(old[key], own, f"{name} {key}", same_length=True)
                if key in RANGES:
                    check_option(key, old[key], f"{name} {key}")
        if type(optimizer) in [getattr(torch.optim, kind) for kind in ELEMENTWISE]:
            _require_moments(state, optimizer, name)
    for place, (state, schedule) in enumerate(zip(schedule_states, schedules, strict=True)):
        name, fresh = f"the checkpoint's schedule {place}", schedule.state_dict()
        if "lr_lambdas" in fresh.keys() - state.keys():
            kind = type(schedule).__name__
            raise ValueError(f"{name} is no {kind}; resume with the run's own config or start a new run")
        for key, value in state.items():
            if key in ("last_epoch", "_step_count"):
                whole(value, f"{name} {key}")
            elif key in PERIODS:
                positive(value, f"{name} {key}")
            elif key in fresh:
                _like(value, fresh[key], f"{name} {key}", same_length=key in ("base_lrs", "_last_lr"))
            elif hasattr(schedule, key):  # it would stand in place of a method or of the optimizer
                raise ValueError(f"{name} has an unknown key {key!r:.40}")


def without_moments(states: States, optimizers: Sequence[Optimizer]) -> list[str]:
    """A line per Adam that has stepped and whose state in the checkpoint lacks some of the parameters that train now.

    No error: a parameter that never had a gradient has no moments either.
    """
    lines = []
    for place, (state, optimizer) in enumerate(zip(states, optimizers, strict=True)):
        stored = chain.from_iterable(group["params"] for group in state["param_groups"])
        own = chain.from_iterable(group["params"] for group in optimizer.param_groups)
        lacking = [not state["state"].get(key) for key, now in zip(stored, own, strict=True) if now.requires_grad]
        if isinstance(optimizer, torch.optim.Adam) and any(lacking):
            lines.append(
                f"optimizer {place}: the checkpoint has no moments for {sum(lacking)} of {len(lacking)} parameters, "
                "they start at zero; as it should be only for what never had a gradient"
            )
    return lines


def add_missing_options(groups: Sequence[dict[str, Any]], configured: States) -> None:
    """Restoring leaves a group with the options of the checkpoint alone, which may lack some of this run's."""
    for group, options in zip(groups, configured, strict=True):
        for name in options.keys() - group.keys():
            group[name] = options[name]


def _require_moments(state: Mapping[str, Any], optimizer: Optimizer, name: str) -> None:
    """Each parameter's moments must have its shape; Adam needs all of them, an option that is on its own."""
    stored = list(chain.from_iterable(group["params"] for group in state["param_groups"]))
    if strange := [key for key in state["state"] if key not in stored]:
        raise ValueError(f"{name} has moments for parameter {shown(strange[0])}, which is in none of its groups")
    pairs = list(zip(state["param_groups"], optimizer.param_groups, strict=True))
    parameters = [(parameter, _needed(optimizer, old, new)) for old, new in pairs for parameter in new["params"]]
    for key, (parameter, needed) in zip(stored, parameters, strict=True):
        moments = state["state"].get(key) or {}
        if missing := needed - moments.keys() if moments else set():
            raise ValueError(f"{name} has no {min(missing)} for parameter {key}")
        for part, value in moments.items():
            where = f"{name} {part} of parameter {key}"
            if part == "step":
                number(value, where)
                if float(value) < 0:
                    refuse(float(value), where, "a number of steps")
            elif part not in MOMENTS or (value is None and part == "momentum_buffer"):
                continue
            elif not isinstance(value, Tensor) or value.shape != parameter.shape:
                refuse(value, where, f"a tensor of shape {tuple(parameter.shape)}")
            else:
                dense(value, where)


def _needed(optimizer: Optimizer, old: Mapping[str, Any], new: Mapping[str, Any]) -> set[str]:
    """Moments without which a step of a group fails, whichever of the two groups' options will count."""
    always = {"step", "exp_avg", "exp_avg_sq"} if isinstance(optimizer, torch.optim.Adam) else set()
    moments = KEPT_FOR | ({"momentum": "momentum_buffer"} if isinstance(optimizer, torch.optim.RMSprop) else {})
    return always | {moment for option, moment in moments.items() if old.get(option) or new.get(option)}


def _like(stored: Any, fresh: Any, name: str, same_length: bool = False) -> None:
    """ValueError if `stored` could not stand where `fresh` stands."""
    if isinstance(fresh, bool):
        if not isinstance(stored, bool | None):
            refuse(stored, name, "true or false")
    elif fresh is None:
        if not isinstance(stored, bool | int | float | str | None):
            refuse(stored, name, "true, false or nothing")
    elif isinstance(fresh, int | float | Tensor):
        number(stored, name)
    elif isinstance(fresh, str):
        if not isinstance(stored, str):
            refuse(stored, name, "a text")
    elif isinstance(fresh, list | tuple):
        if not isinstance(stored, list | tuple) or (same_length and len(stored) != len(fresh)):
            refuse(stored, name, f"a list of {len(fresh)}" if same_length else "a list")
        for entry in stored if fresh else ():
            _like(entry, fresh[0], name)
    elif isinstance(fresh, Mapping):
        if not isinstance(stored, Mapping):
            refuse(stored, name, "a mapping")
        for key in stored.keys() & fresh.keys():
            _like(stored[key], fresh[key], f"{name}.{key}")
