"""Numbers of a config for which Lightning has no check: it divides by zero, or trains on as if nothing were."""

from argparse import Namespace

from callbacks.checkpoints.plain_reader import shown

LEAST = {
    "trainer.accumulate_grad_batches": 1,
    "trainer.check_val_every_n_epoch": 1,
    "trainer.log_every_n_steps": 0,
    "num_threads": 1,
}


def check_ranges(settings: Namespace) -> None:
    """ValueError in one line for a number of the parsed config, before anything is built, that is too small."""
    for key, least in LEAST.items():
        if isinstance(value := _at(settings, key), int) and value < least:
            raise ValueError(f"{key}={shown(value)}: must be at least {least}")
    every = settings.trainer.val_check_interval
    if isinstance(every, int | float) and not every > 0:
        raise ValueError(f"trainer.val_check_interval={every}: give a share of an epoch or a number of batches")
    for name, callback in vars(getattr(settings, "callbacks", None) or Namespace()).items():
        patience = _at(callback, "init_args.patience")
        if isinstance(patience, int) and patience < 0:
            raise ValueError(f"callbacks.{name}.patience={patience}: must be at least 0")


def _at(settings: object, key: str) -> object:
    for name in key.split("."):
        settings = getattr(settings, name, None)
    return settings
