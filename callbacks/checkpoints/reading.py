"""Reading checkpoint files: never code, and never a damaged file taken for a whole one."""

import errno
import os
import re
import stat
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from callbacks.checkpoints.remote import is_remote, load_remote
from callbacks.checkpoints.restored_state import require_restorable
from fewstep.one_line import one_line

OLDER = "use an older one, for example with --resume auto"


def read_checkpoint(path: str | Path, map_location: Any = None, lazily: bool = False) -> dict[str, Any]:
    """A Lightning checkpoint as plain tensors and Python values, never code, each of the kind that a run writes.

    path: of a file, or an address that fsspec reads (s3://, https://).
    lazily: map the file instead of reading it, for a look at small parts of a large one; nothing is verified, and the
        tensors of a remote file have shapes only. Otherwise the checksum of every member of a local file is compared.
    Errors: FileNotFoundError; ValueError in one line for a truncated or damaged file or one of another kind; OSError in
    one line for a disk that does not answer.
    """
    if not is_remote(path):
        _require_file(path)
    try:
        with warnings.catch_warnings():  # torch's remarks on odd files: what is wrong with them is said below
            warnings.simplefilter("ignore")
            if is_remote(path):
                checkpoint = load_remote(str(path), map_location, lazily)
            else:
                require_uncompressed(path) if lazily else check_members(path)
                checkpoint = torch.load(path, map_location=map_location or "cpu", weights_only=True, mmap=lazily)
    except ImportError:
        raise
    except FileNotFoundError as error:
        raise FileNotFoundError(f"checkpoint {path} is not there or does not answer") from error
    except Exception as error:  # torch raises many kinds; all mean that this file is of no use
        raise_unreachable(error, path)
        why = reason(error) if is_remote(path) else foreign_kind(path) or reason(error)
        text = f"checkpoint {path} cannot be read (truncated or not a checkpoint): {why}; {OLDER}"
        raise ValueError(text) from error
    return _lightning(checkpoint, path)


def _require_file(path: str | Path) -> None:
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        fault = f"is a link to {os.readlink(path)}, which is not there" if os.path.islink(path) else "does not exist"
        raise FileNotFoundError(f"checkpoint {path} {fault}") from None
    except OSError as error:
        raise_unreachable(error, path)
        raise
    if stat.S_ISDIR(mode):
        raise ValueError(f"checkpoint {path} is a folder; name a .ckpt file")
    if not stat.S_ISREG(mode):
        raise ValueError(f"checkpoint {path} is a device or a pipe; name a .ckpt file")


def raise_unreachable(error: BaseException, path: str | Path) -> None:
    """OSError in one line if an error came about because the system could not read `path`, not because of its bytes.

    A server that does not answer or a failing disk says nothing about the file. zipfile and torch hide such errors:
    what they report as damage is read once more.
    """
    cause: BaseException | None = error
    while cause is not None:
        _raise_if_of_the_system(cause, path)
        cause = cause.__cause__ or cause.__context__
    if not is_remote(path) and os.path.isfile(path):
        try:
            with open(path, "rb") as file:
                while file.read(1 << 20):
                    pass
        except OSError as failure:
            _raise_if_of_the_system(failure, path)


def _raise_if_of_the_system(error: BaseException, path: str | Path) -> None:
    wrong_place = (None, errno.EINVAL, errno.EOVERFLOW)  # asked for by the file's own numbers
    if isinstance(error, OSError) and error.errno not in wrong_place and not is_remote(path):
        why = f"{path} cannot be read ({os.strerror(error.errno or 0)}), which does not mean that it is damaged"
        raise OSError(error.errno, f"{why}; try again once the disk answers") from error


def require_uncompressed(path: str | Path) -> None:
    """ValueError for a compressed member: torch writes none, and a small file could fill the memory. BadZipFile."""
    with zipfile.ZipFile(path) as archive:
        packed = [m.filename for m in archive.infolist() if m.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise ValueError(f"its member {packed[0]} is compressed, which torch.save does not do")


def check_members(path: str | Path) -> None:
    """Read the whole file and compare the checksum of each member.

    `torch.load` does not: a flipped bit would become a weight. Errors: ValueError, BadZipFile for a damaged file.
    """
    require_uncompressed(path)
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"the checksum of its member {damaged} is wrong, the file is damaged")


def require_training_state(checkpoint: Mapping[str, Any], name: str = "the checkpoint") -> None:
    """ValueError for a checkpoint from which training cannot go on: weights only, or of another framework."""
    parts = ("optimizer_states", "lr_schedulers", "loops", "global_step", "pytorch-lightning_version")
    missing = [part for part in parts if part not in checkpoint]
    missing += ["loops.fit_loop"] if not missing and "fit_loop" not in checkpoint["loops"] else []
    if missing:
        raise ValueError(
            f"{name} holds no {missing[0]}: it has weights only or is not Lightning's, so training cannot go on "
            "from it; resume from a last.ckpt"
        )


def reason(error: Exception) -> str:
    """Why torch refused a file, in one line without its advice to switch the protection off."""
    text = one_line(error, 10**6)
    if found := re.search(r"GLOBAL (\S+)", text):
        return f"it asks for {found[1]}, and only tensors and plain values are ever loaded"
    if "TorchScript" in text:
        return "it is a TorchScript archive, which holds code"
    if "central directory" in text or "not a zip file" in text:
        return "its end is missing"
    if "Weights only load failed" in text:
        return "its values are damaged or not plain"
    return text[:160] or type(error).__name__


def foreign_kind(path: str | Path) -> str | None:
    """What a file is that is no zip archive of torch, by its first bytes; None if it may be one."""
    with open(path, "rb") as file:
        head = file.read(9)
    if head.startswith(b"PK"):
        return None if zipfile.is_zipfile(path) else "its end is missing"
    if not head:
        return "it is empty"
    if head.startswith(b"\x89HDF"):
        return "it is an HDF5 file, as Keras writes them"
    if head[8:9] == b"{":
        return "it is a safetensors file, which holds weights only"
    if head.startswith(b"\x80"):
        return "it is a bare pickle, from a torch older than 1.6 or from another library"
    return "it is no archive of torch.save"


def _lightning(checkpoint: Any, path: str | Path) -> dict[str, Any]:
    if isinstance(checkpoint, dict) and isinstance(checkpoint.get("state_dict"), Mapping):
        try:
            require_restorable(checkpoint)
        except ValueError as error:
            raise ValueError(f"checkpoint {path} is malformed: {error}; {OLDER}") from None
        return checkpoint
    if not isinstance(checkpoint, dict):
        found = f"it holds one {type(checkpoint).__name__}"
    elif "state_dict" in checkpoint:
        found = f"its state_dict is a {type(checkpoint['state_dict']).__name__}"
    elif checkpoint and all(isinstance(value, Tensor) for value in checkpoint.values()):
        found = f"it has no state_dict, only {len(checkpoint)} bare weights"
    else:
        found = f"it has no state_dict; its keys are {', '.join(map(str, list(checkpoint)[:3])) or 'none'}"
    raise ValueError(f"{path} is not a Lightning checkpoint: {found}; name a file that a run has written")
