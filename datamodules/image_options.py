"""Checks of what a user gives to ImageTextDataModule; every mistake is one line that names the value."""

import re
from collections.abc import Mapping
from typing import Any

CHOICES = {
    "captions": ("first", "random"),
    "sampling": ("exact", "resampled"),
    "start_method": ("fork", "spawn", "forkserver", None),
}
AT_LEAST_1 = ("image_size", "batch_size", "eval_batch_size", "steps_per_epoch", "shuffle_window", "prefetch")
AT_LEAST_1 += ("num_train", "num_val", "num_test")
AT_LEAST_0 = ("num_workers", "worker_restarts", "worker_timeout", "seed")


def check_options(options: Mapping[str, Any]) -> None:
    """ValueError for the first option that cannot be meant."""
    for name, choices in CHOICES.items():
        if options[name] not in choices:
            raise ValueError(f"{name}={options[name]!r}: choose one of {', '.join(map(str, choices))}")
    for least, names in ((1, AT_LEAST_1), (0, AT_LEAST_0)):
        for name in names:
            if options[name] is not None and options[name] < least:
                raise ValueError(f"{name}={options[name]}: must be at least {least}")
    if options["sampling"] == "resampled" and (
        options["select"] or options["num_train"] or options["steps_per_epoch"] is None
    ):
        raise ValueError("sampling=resampled needs steps_per_epoch and cannot select: it never sees all samples")


def parse_color(color: str) -> tuple[int, int, int]:
    """rrggbb -> (red, green, blue) in 0..255."""
    if not re.fullmatch("[0-9a-fA-F]{6}", str(color)):
        raise ValueError(f"background={color!r}: give six hexadecimal digits, such as ffffff for white")
    red, green, blue = bytes.fromhex(color)
    return red, green, blue
