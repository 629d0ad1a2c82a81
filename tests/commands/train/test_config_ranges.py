"""Limits that leave a command nothing to do are refused, and only those."""

from argparse import Namespace

import pytest
import torch

from commands.train.config_ranges import check_ranges

OPEN = dict.fromkeys(("limit_train_batches", "limit_val_batches", "limit_test_batches", "limit_predict_batches"))
OPEN |= {"max_epochs": None, "max_steps": -1, "val_check_interval": None, "devices": 1, "accelerator": "cpu"}


def check(command: str, test_after_fit: bool = True, **trainer: object) -> None:
    check_ranges(Namespace(trainer=Namespace(**OPEN | trainer), test_after_fit=test_after_fit), command)


@pytest.mark.parametrize("zero", [0, 0.0])
@pytest.mark.parametrize(
    ("command", "key"),
    [
        ("fit", "max_epochs"),
        ("fit", "max_steps"),
        ("fit", "limit_train_batches"),
        ("validate", "limit_val_batches"),
        ("test", "limit_test_batches"),
        ("predict", "limit_predict_batches"),
    ],
)
def test_nothing_to_do_is_refused_for_the_command_that_it_leaves_idle(command, key, zero):
    with pytest.raises(ValueError, match=f"^trainer.{key}=0 leaves nothing to "):
        check(command, **{key: zero})
    for other in {"fit", "validate", "test", "predict"} - {command}:
        if (other, key) != ("fit", "limit_test_batches"):
            check(other, **{key: zero})
    for some in (1, 0.5):
        check(command, **{key: some})


def test_an_empty_test_after_training_is_refused():
    with pytest.raises(ValueError, match=r"trainer\.limit_test_batches=0 .* --test_after_fit false"):
        check("fit", limit_test_batches=0)
    check("fit", test_after_fit=False, limit_test_batches=0)
    check("fit", limit_val_batches=0)  # no validation is a choice


@pytest.mark.parametrize("accelerator", ["cpu", "auto"])
@pytest.mark.parametrize("devices", [-1, "-1", 0, [1, 2], "1,2", "1,", [0], "x", ""])
def test_a_cpu_has_a_number_of_processes(monkeypatch, accelerator, devices):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"^trainer\.devices=.*: on a CPU give the number of processes") as error:
        check("fit", accelerator=accelerator, devices=devices)
    assert "\n" not in str(error.value)
    for fine in (1, "2", 8, "auto"):
        check("fit", accelerator=accelerator, devices=fine)
    check("fit", accelerator="gpu", devices=devices)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    check("fit", accelerator="auto", devices=devices)
