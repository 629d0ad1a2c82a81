"""Ranges of optimizer options against PyTorch's own checks, and in every module's arguments before anything is read."""

import inspect
import math
import random
from types import SimpleNamespace

import pytest
import torch

import lightning_modules
from commands.train.optimizer_options import OptimizerOptions
from fewstep.optimizer_options import check_adamw, check_option
from fewstep.optimizers import AdamW
from lightning_modules import OTConditionalModule

BAD = {
    "lr": [-1e-3, 0.0, math.nan, math.inf, -math.inf],
    "weight_decay": [-1e-9, -0.1, math.nan, math.inf],
    "betas": [(-0.1, 0.9), (0.9, 1.0), (1.0, 0.9), (0.9, 1.5), (math.nan, 0.9), (0.9, -math.inf)],
    "warmup_steps": [-1],
}
GOOD = {"lr": 1e-3, "weight_decay": 0.0, "betas": (0.0, 0.999), "warmup_steps": 0}


@pytest.mark.parametrize(("option", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_the_settings_are_refused_before_a_module_reads_anything(option, value):
    with pytest.raises(ValueError, match=rf"^{option}=.*must be"):
        AdamW(**{option: value})


@pytest.mark.parametrize(("option", "value"), [(n, v) for n, vs in BAD.items() for v in vs if n != "warmup_steps"])
def test_a_module_with_two_rates_refuses_it_before_it_reads_anything(option, value):
    for name in [option] if option == "betas" else [f"cost_{option}", f"potential_{option}"]:
        with pytest.raises(ValueError, match=rf"^{name}=.*must be"):
            OTConditionalModule(None, **{name: value})


def test_every_other_module_takes_the_settings_as_one_group():
    kinds = [getattr(lightning_modules, name) for name in lightning_modules.__all__]
    groups = {kind: inspect.signature(kind).parameters.get("optimizer") for kind in kinds}
    assert [kind for kind, group in groups.items() if group is None] == [OTConditionalModule]
    assert all(isinstance(group.default, AdamW) for group in groups.values() if group is not None)


@pytest.mark.parametrize("seed", range(200))
def test_what_passes_is_what_pytorch_takes_but_for_zero_and_infinite(seed):
    draw = random.Random(seed)
    given = {k: draw.choice([GOOD[k], GOOD[k], draw.choice(BAD[k])]) for k in ("lr", "betas", "weight_decay")}
    try:
        torch.optim.AdamW([torch.zeros(1)], **given)
        taken = True
    except ValueError:
        taken = False
    plain = given["lr"] != 0 and math.inf not in (given["lr"], given["weight_decay"])
    try:
        check_adamw(**given)
        passed = True
    except ValueError:
        passed = False
    assert passed == (taken and plain)


@pytest.mark.parametrize(
    ("kind", "option", "value"),
    [
        ("SGD", "momentum", -0.5),
        ("SGD", "momentum", 1.5),
        ("SGD", "dampening", -1.0),
        ("SGD", "weight_decay", -0.1),
        ("SGD", "lr", math.nan),
        ("AdamW", "weight_decay", -0.1),
        ("AdamW", "betas", (0.9, 1.0)),
        ("AdamW", "lr", -1.0),
        ("AdamW", "lr", torch.tensor(math.inf)),
        ("AdamW", "eps", -1e-8),
        ("RMSprop", "momentum", -0.1),
    ],
)
def test_the_options_of_a_single_group_are_checked_before_the_first_step(kind, option, value):
    """PyTorch checks those that all groups share only, so these are taken."""
    group = {"params": [torch.nn.Parameter(torch.zeros(1))], option: value}
    optimizer = getattr(torch.optim, kind)([group], lr=0.1)
    trainer = SimpleNamespace(
        optimizers=[optimizer], lr_scheduler_configs=[], precision_plugin=None, gradient_clip_val=None
    )
    with pytest.raises(ValueError, match=f"^{kind}: {option}=.*must be finite"):
        OptimizerOptions().on_fit_start(trainer, None)


@pytest.mark.parametrize("clip", [-1.0, math.nan, math.inf])
def test_a_gradient_clipping_that_does_nothing_or_everything(clip):
    trainer = SimpleNamespace(optimizers=[], lr_scheduler_configs=[], precision_plugin=None, gradient_clip_val=clip)
    with pytest.raises(ValueError, match="gradient_clip_val"):
        OptimizerOptions().on_fit_start(trainer, None)


def test_what_other_optimizers_put_there_passes():
    for value in (None, True, (None, 1e-3), torch.tensor(0.1), 0, 0.0):
        check_option("eps", value)
    check_option("momentum", 1)
