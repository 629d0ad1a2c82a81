"""The newest checkpoint of a run from which training can go on."""

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor

from callbacks.checkpoints.reading import check_members, raise_unreachable, read_checkpoint, require_training_state

say = rank_zero_only(print)


def newest_checkpoint(folders: Iterable[Path]) -> Path | None:
    """The newest valid checkpoint in these folders, None where there is no file of that kind.

    Those passed over are named on stderr, one line each. Valid: every checksum right, plain values only, a state of
    training, no NaN among the weights. If all the whole ones hold a NaN, the newest of these is taken: it may be a
    constant of the model. Newest: by the time noted in the file, which survives copying, or else the file's own.
    Errors: ValueError in one line where there are checkpoints and none is valid: a training that begins anew would
    replace them. OSError in one line for a disk that does not answer, whose checkpoints may well be whole.
    """
    files = [file for folder in dict.fromkeys(folders) for file in checkpoints_in(folder)]
    found = []
    for file in files:
        try:
            stored = read_checkpoint(file, lazily=True)
            require_training_state(stored, f"checkpoint {file}")
        except ValueError as error:
            _skip(str(error))
        else:
            found.append((_written_at(stored, file), file))
    with_nan = []
    for _, file in sorted(found, reverse=True):
        try:
            check_members(file)
        except Exception as error:  # zip errors of many kinds
            raise_unreachable(error, file)
            _skip(f"checkpoint {file} cannot be read (truncated or not a checkpoint): {error}")
            continue
        if not _holds_nan(read_checkpoint(file, lazily=True)["state_dict"]):
            return file
        with_nan.append(file)
        _skip(f"checkpoint {file}: its weights hold NaN")
    if files and not with_nan:
        raise ValueError(
            f"no checkpoint in {files[0].parent} is one that training can go on from; to begin anew, which would "
            "replace them, choose another --run_dir or move them away"
        )
    return with_nan[0] if with_nan else None


def checkpoints_in(folder: Path) -> list[Path]:
    """Files called .ckpt. Errors: OSError or ValueError in one line for a folder that is there and cannot be read."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        if os.path.islink(folder):
            raise ValueError(f"{folder} is a link to {os.readlink(folder)}, which is not there") from None
        return []
    except NotADirectoryError:
        raise ValueError(f"{folder} is no folder; checkpoints go there: move it away") from None
    except OSError as error:
        raise_unreachable(error, folder)
        raise
    return [folder / name for name in sorted(names) if name.endswith(".ckpt")]


def _skip(text: str) -> None:
    say(f"skipped {text}", file=sys.stderr)


def _written_at(stored: Mapping[str, Any], file: Path) -> int:
    noted = stored.get("saved_at")
    return noted if isinstance(noted, int) else file.stat().st_mtime_ns


def _holds_nan(weights: Mapping[str, Any]) -> bool:
    """Whether a floating tensor holds a NaN; one pass without a temporary of the tensor's size."""
    dense = (w for w in weights.values() if isinstance(w, Tensor) and w.layout is torch.strided)
    tensors = (w for w in dense if w.is_floating_point() and w.numel())
    return any(torch.aminmax(w.detach()).min.isnan() for w in tensors if w.element_size() > 1)  # no float8 kernel
