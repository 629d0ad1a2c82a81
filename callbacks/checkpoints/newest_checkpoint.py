"""The newest checkpoint of a run from which training can go on."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor

from callbacks.checkpoints.reading import check_members, read_checkpoint, require_training_state

say = rank_zero_only(print)


def newest_checkpoint(run_dir: Path) -> Path | None:
    """The newest valid checkpoint in RUN/checkpoints; those passed over are named on stderr, one line each.

    Valid: every checksum right, plain values only, a state of training, no NaN among the weights. If all the whole ones
    hold a NaN, the newest of these is taken: it may be a constant of the model. Newest: by the time noted in the file,
    which survives copying, or else the file's own.
    """
    found = []
    for file in sorted(run_dir.glob("checkpoints/*.ckpt")):
        try:
            stored = read_checkpoint(file, lazily=True)
            require_training_state(stored, f"checkpoint {file}")
        except (ValueError, OSError) as error:
            _skip(str(error))
        else:
            found.append((_written_at(stored, file), file))
    with_nan = []
    for _, file in sorted(found, reverse=True):
        try:
            check_members(file)
        except Exception as error:  # zip errors of many kinds
            _skip(f"checkpoint {file} cannot be read (truncated or not a checkpoint): {error}")
            continue
        if not _holds_nan(read_checkpoint(file, lazily=True)["state_dict"]):
            return file
        with_nan.append(file)
        _skip(f"checkpoint {file}: its weights hold NaN")
    return with_nan[0] if with_nan else None


def _skip(text: str) -> None:
    say(f"skipped {text}", file=sys.stderr)


def _written_at(stored: Mapping[str, Any], file: Path) -> int:
    noted = stored.get("saved_at")
    return noted if isinstance(noted, int) else file.stat().st_mtime_ns


def _holds_nan(weights: Mapping[str, Any]) -> bool:
    """Whether a floating tensor holds a NaN; one pass without a temporary of the tensor's size."""
    tensors = (w for w in weights.values() if isinstance(w, Tensor) and w.is_floating_point() and w.numel())
    return any(torch.aminmax(w.detach()).min.isnan() for w in tensors if w.element_size() > 1)  # no float8 kernel
