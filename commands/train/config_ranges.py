"""Numbers of a config for which Lightning has no check: it divides by zero, or trains on as if nothing were."""

from argparse import Namespace

import torch

from fewstep.files.plain_reader import shown

SOMETHING = ("max_epochs", "max_steps", "limit_train_batches")  # 0 trains nothing
OF_STAGE = {"validate": "limit_val_batches", "test": "limit_test_batches", "predict": "limit_predict_batches"}
LEAST = {
    "trainer.accumulate_grad_batches": 1,
    "trainer.check_val_every_n_epoch": 1,
    "trainer.log_every_n_steps": 0,
    "num_threads": 1,
}


def check_ranges(settings: Namespace, command: str) -> None:
    """ValueError in one line for a number of the parsed config, before anything is built, that is too small.

    command: fit, validate, test or predict; a limit of 0 leaves it nothing to do.
    """
    for key in SOMETHING if command == "fit" else (OF_STAGE[command],):
        if getattr(settings.trainer, key) == 0:
            raise ValueError(f"trainer.{key}=0 leaves nothing to {command.replace('fit', 'train')}; give more")
    if command == "fit" and settings.test_after_fit and settings.trainer.limit_test_batches == 0:
        raise ValueError("trainer.limit_test_batches=0 leaves nothing to test; give more, or --test_after_fit false")
    for key, least in LEAST.items():
        if isinstance(value := _at(settings, key), int) and value < least:
            raise ValueError(f"{key}={shown(value)}: must be at least {least}")
    devices, count = settings.trainer.devices, str(settings.trainer.devices)
    if _on_cpu(settings.trainer.accelerator) and count != "auto" and not (count.isdecimal() and int(count) > 0):
        raise ValueError(f"trainer.devices={devices!s:.60}: on a CPU give the number of processes, at least 1")
    every = settings.trainer.val_check_interval
    if isinstance(every, int | float) and not every > 0:
        raise ValueError(f"trainer.val_check_interval={every}: give a share of an epoch or a number of batches")
    for name, callback in vars(getattr(settings, "callbacks", None) or Namespace()).items():
        patience = _at(callback, "init_args.patience")
        if isinstance(patience, int) and patience < 0:
            raise ValueError(f"callbacks.{name}.patience={patience}: must be at least 0")


def _on_cpu(accelerator: object) -> bool:
    return accelerator == "cpu" or (accelerator == "auto" and not torch.accelerator.is_available())


def _at(settings: object, key: str) -> object:
    for name in key.split("."):
        settings = getattr(settings, name, None)
    return settings
