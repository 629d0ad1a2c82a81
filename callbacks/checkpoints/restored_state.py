"""What a checkpoint may hold beside its weights: one schema of everything that a run restores from it.

A checkpoint is untrusted. It loads as tensors and plain values; here each must be of the kind and in the range that a
run writes, else the file counts as damaged. Where its paths may lead: restored_paths.py. What only the optimizers of
this run can tell: optimizer_state.py. The state of other people's callbacks, modules and loaders is theirs.
"""

import re
from collections.abc import Mapping
from typing import Any

from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason

from fewstep.files.plain_reader import (
    dense,
    each,
    either,
    fields,
    flag,
    mapping,
    named,
    number,
    optional,
    positive,
    refuse,
    tensor,
    text,
    whole,
)

COUNTS = ("ready", "started", "processed", "completed")


def require_restorable(checkpoint: Mapping[str, Any]) -> None:
    """ValueError in one line that names the first part of a wrong kind or out of range."""
    try:
        PARTS(checkpoint, "")
        same_steps(checkpoint)
    except (ValueError, RecursionError) as error:
        raise ValueError(str(error)[:160]) from None


def version(value: Any, name: str) -> None:
    text(value, name)
    if not re.fullmatch(r"\d{1,4}(\.\d{1,8}){1,3}((a|b|rc|\.?dev|\.?post)\d*)?(\+[a-z0-9.]+)?", value, re.ASCII):
        refuse(value, name, "a version")


def weights(value: Any, name: str) -> None:
    """Tensors by name; a module's own extra state is of any plain kind."""
    named(lambda entry, where: None if where.endswith("_extra_state") else tensor(entry, where))(value, name)


def progress(value: Any, name: str) -> None:
    """Counts of one of Lightning's loops, which are set as attributes one by one: nothing else may stand there."""
    mapping(value, name)
    for key, entry in value.items():
        where = f"{name}.{key}"
        if key in COUNTS:
            whole(entry, where)
        elif key == "is_last_batch":
            flag(entry, where)
        elif key in ("total", "current", "optimizer", "step", "zero_grad"):
            progress(entry, where)
        else:
            raise ValueError(f"{name} has an unknown key {key!r:.40}")
    if "total" in value or "current" in value:
        fields({"total": mapping, "current": mapping})(value, name)


def loop(value: Any, name: str) -> None:
    """One of Lightning's four loops with those inside it."""
    mapping(value, name)
    for key, entry in value.items():
        text(key, f"a key of {name}")
        where, part = f"{name}.{key}", key.rpartition(".")[2]
        if part == "state_dict":
            loop_state(entry, where)
            continue
        if not part.endswith("progress"):
            raise ValueError(f"{name} has an unknown key {key!r:.40}")
        progress(entry, where)
        needed = ["optimizer" if part == "optim_progress" else "total"]
        needed += ["is_last_batch"] if part == "batch_progress" and name != "loops.predict_loop" else []
        fields(dict.fromkeys(needed, lambda *_: None))(entry, where)
        if part == "optim_progress":
            fields({"step": fields({"total": mapping}), "zero_grad": fields({"total": mapping})})(
                entry["optimizer"], f"{where}.optimizer"
            )


def position(value: Any, name: str) -> None:
    """Where one of the project's training streams stood; others have keys of their own."""
    if isinstance(value, Mapping) and value.keys() in ({"step"}, {"seed", "epoch", "sample"}, {"seed", "samples"}):
        named(whole)(value, name)


def option(value: Any, name: str, depth: int = 0) -> None:
    """An option of an optimizer: plain and small enough to be compared with another."""
    if isinstance(value, list | tuple) and depth < 4:
        each(lambda entry, where: option(entry, where, depth + 1))(value, name)
    elif type(value) not in (str, bool, type(None)):
        number(value, name)


def parameter(value: Any, name: str) -> None:
    """How an optimizer's state names a parameter: by number, or by its own name where the model is split."""
    text(value, name) if isinstance(value, str) else whole(value, name)


def optimizer(value: Any, name: str) -> None:
    group = fields({"params": each(parameter)}, lr=number)
    fields({"state": mapping, "param_groups": each(group)})(value, name)
    for key, entry in value["state"].items():
        named(lambda *_: None)(entry, f"{name}.state.{key!r:.40}")


def callback_states(value: Any, name: str) -> None:
    mapping(value, name)
    for key, state in value.items():
        text(key, f"a key of {name}")
        kind = key.partition("{")[0]
        where = f"{name}.{kind if kind.isprintable() else '?'}"
        if state is not None:
            CALLBACKS.get(kind, mapping)(state, where)


def same_steps(checkpoint: Mapping[str, Any]) -> None:
    """The loops count optimizer steps too, automatic or manual ones; training goes on from their count."""
    loops, steps = checkpoint.get("loops", {}).get("fit_loop", {}), checkpoint.get("global_step")
    automatic = loops.get("epoch_loop.automatic_optimization.optim_progress")
    manual = loops.get("epoch_loop.manual_optimization.optim_step_progress")
    if automatic is None or manual is None or steps is None:
        return
    counts = [automatic["optimizer"]["step"]["total"].get("completed"), manual["total"].get("completed")]
    if steps not in counts:
        refuse(steps, "global_step", f"the loops' {counts[0] or counts[1]}")


loop_state = fields({}, combined_loader=each(position), _batches_that_stepped=whole)

hyper_parameters = fields({}, _class_path=text, _instantiator=optional(text))

saver = fields(
    {"best_model_path": text, "best_model_score": optional(number)},
    dirpath=optional(text),
    current_score=optional(number),
    best_k_models=named(number),
    kth_best_model_path=text,
    kth_value=number,
    last_model_path=text,
)

CALLBACKS = {  # by class; the keys of Lightning's go on with {options}
    "ModelCheckpoint": saver,
    "EarlyStopping": fields(
        {"wait_count": whole, "stopped_epoch": whole, "best_score": number, "patience": whole},
        stopping_reason=either(*(reason.value for reason in EarlyStoppingReason)),
        stopping_reason_message=optional(text),
    ),
    "EMA": fields({"num_updates": whole, "average": named(dense)}),
    "NumericGuard": fields(dict.fromkeys(("steps", "skipped", "in_a_row", "charged"), whole)),
    "LossSpikes": fields({"spikes": whole}),
    "StepSeed": fields({"seed": optional(whole)}),
    "DataIdentity": fields({"digests": named(text)}, parts=each(fields({"name": text, "kind": text, "sha256": text}))),
    "OptimizerOptions": fields({"configured": each(each(named(option)))}),
}

PARTS = fields(
    {"state_dict": weights},
    **{
        "global_step": whole,
        "epoch": whole,
        "pytorch-lightning_version": version,
        "loops": fields({}, fit_loop=loop, validate_loop=loop, test_loop=loop, predict_loop=loop),
        "callbacks": callback_states,
        "optimizer_states": each(optimizer),
        "lr_schedulers": each(named(lambda *_: None)),
        "hyper_parameters": hyper_parameters,
        "datamodule_hyper_parameters": hyper_parameters,
        "MixedPrecision": fields(
            {"scale": positive, "growth_factor": positive, "backoff_factor": positive},
            growth_interval=whole,
            _growth_tracker=whole,
        ),
    },
)
