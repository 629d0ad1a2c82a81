"""Groups of what a user gives to ImageTextDataModule, and the checks: one line that names the key and the value."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from datamodules.image_transforms import CROPS, ImageTransform
from fewstep.choices import require_choice
from fewstep.picture_size import Size, height_and_width

MOST_WORKERS = 1024  # more are a slip; processes of one machine
LONGEST = 1e8  # seconds that a timer can count, three years


@dataclass(frozen=True)
class Splits:
    """Which samples are trained on, validated and tested.

    train, val, test: names of the splits in the folder; `valid`, `dev`, .. are found as `val`.
    val_path, test_path: where those two are read from, if not from the datamodule's `path`.
    num_train, num_val, num_test: use only that many samples, chosen by the seed; None means all. Of val and test these
        are the most that are used.
    """

    train: str = "train"
    val: str = "val"
    test: str = "test"
    val_path: str | list[str] | None = None
    test_path: str | list[str] | None = None
    num_train: int | None = None
    num_val: int | None = None
    num_test: int | None = None

    def __post_init__(self) -> None:
        for name in ("num_train", "num_val", "num_test"):
            require_at_least(1, f"splits.{name}", getattr(self, name))


@dataclass(frozen=True)
class TransformOptions:
    """How a picture gets the size of the others.

    crop: "center", "random" (training only) or "none" (pad to the shape). flip: mirror half of the training images.
    background: colour behind transparent pixels as rrggbb. max_pixels: refuse larger pictures before they are decoded.
    """

    crop: str = "center"
    flip: bool = False
    background: str = "ffffff"
    max_pixels: int = 1 << 26

    def __post_init__(self) -> None:
        require_choice("transform.crop", self.crop, CROPS)
        parse_color(self.background, "transform.background")
        require_at_least(1, "transform.max_pixels", self.max_pixels)

    @property
    def color(self) -> tuple[int, int, int]:
        """(red, green, blue) of the background in 0..255."""
        return parse_color(self.background)

    def of(self, size: Size, training: bool) -> ImageTransform:
        """What gives every picture this size in pixels; nothing about it is random in evaluation."""
        crop = "center" if self.crop == "random" and not training else self.crop
        return ImageTransform(size, crop, flip=self.flip and training, background=self.color)


@dataclass(frozen=True)
class LoaderOptions:
    """The worker processes that read batches, beside their number.

    prefetch: batches that each reads ahead. start_method: "fork", "spawn" or "forkserver"; None is Python's default.
    restarts: how often dead workers are replaced before the run stops (see RestartingLoader).
    """

    prefetch: int = 2
    start_method: str | None = None
    restarts: int = 3

    def __post_init__(self) -> None:
        require_at_least(1, "loader.prefetch", self.prefetch)
        if self.start_method is not None:
            require_choice("loader.start_method", self.start_method, ("fork", "spawn", "forkserver"))
        require_at_least(0, "loader.restarts", self.restarts)


def check_options(options: Mapping[str, Any]) -> None:
    """ValueError for the first option outside the groups that cannot be meant; the groups check themselves."""
    require_choice("captions", options["captions"], ("first", "random", "none"))
    require_choice("sampling", options["sampling"], ("exact", "resampled"))
    height_and_width(options["image_size"])
    check_fields(options)
    path = options["path"]
    if not path or (not isinstance(path, str) and not all(path)):
        raise ValueError(f"path={path!r}: give a folder of shards, a .tar file or a list of these")
    for name in ("batch_size", "eval_batch_size", "steps_per_epoch", "shuffle_window"):
        require_at_least(1, name, options[name])
    for name in ("num_workers", "seed"):
        require_at_least(0, name, options[name])
    if options["num_workers"] > MOST_WORKERS:
        raise ValueError(f"num_workers={options['num_workers']}: each is a process; give {MOST_WORKERS} at most")
    require_at_least(0, "worker_timeout", options["worker_timeout"])
    if not (options["worker_timeout"] or 0) <= LONGEST or options["worker_timeout"] is None:
        raise ValueError(
            f"worker_timeout={options['worker_timeout']}: give seconds, up to {LONGEST:.0g}; 0 is for ever"
        )
    if options["seed"] >= 1 << 63:
        raise ValueError(f"seed={options['seed']}: must be below 2^63")
    subset = options["select"] or options["splits"]["num_train"]
    if options["sampling"] == "resampled" and (subset or options["steps_per_epoch"] is None):
        raise ValueError("sampling=resampled needs steps_per_epoch and cannot select: it never sees all samples")


def check_fields(options: Mapping[str, Any]) -> None:
    """ValueError for a field of the batch that would stand in the place of another, and for what cannot be selected."""
    taken = dict.fromkeys(("image", "caption", "key", "weight", "faults"), "every batch has one already")
    for option in ("images", "arrays", "metadata"):
        for name in options[option] or ():
            if name in taken:
                raise ValueError(f"{option}={options[option]}: {name!r} cannot be a further field, {taken[name]}")
            taken[name] = f"{option} name it already"
    for name, wanted in (options["select"] or {}).items():
        for value in wanted if isinstance(wanted, list | tuple | set) else [wanted]:
            if not isinstance(value, str | int | float | None):
                raise ValueError(f"select.{name}={wanted}: give one value, or a list of values that are meant alike")


def require_at_least(least: int, name: str, value: float | None) -> None:
    """ValueError that names a value below the least; None is allowed."""
    if value is not None and not value >= least:  # NaN neither
        raise ValueError(f"{name}={value}: must be at least {least}")


def parse_color(color: str, name: str = "background") -> tuple[int, int, int]:
    """rrggbb -> (red, green, blue) in 0..255."""
    if not re.fullmatch("[0-9a-fA-F]{6}", str(color)):
        raise ValueError(f"{name}={color!r}: give six hexadecimal digits, such as ffffff for white")
    red, green, blue = bytes.fromhex(color)
    return red, green, blue
