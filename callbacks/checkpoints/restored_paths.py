"""Paths that a checkpoint brings along: only those inside the folder that this run writes to are taken over.

Lightning deletes and overwrites the files that a restored ModelCheckpoint names. Its own check is of the letters of a
local path, so that RUN/checkpoints/../../other passes, and other file systems are not checked.
"""

import os
import re
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

from lightning.pytorch.callbacks import ModelCheckpoint

from callbacks.checkpoints.remote import is_remote


def inside(path: str | os.PathLike, folder: str | os.PathLike) -> bool:
    """Whether `path` names something below `folder`, links on the way followed; both local or both addresses.

    Of a path the last name itself is not followed: deleting or replacing a link leaves alone what it points to.
    """
    path, folder = _without_scheme(str(path)), _without_scheme(str(folder))
    if is_remote(path) or is_remote(folder):
        rest = path.removeprefix(folder.rstrip("/") + "/")
        names = unquote(rest).split("/")
        return rest != path and "::" not in rest and not {"", ".", ".."} & set(names)
    name = os.path.basename(path)
    if name in ("", ".", "..") or "\0" in path:
        return False
    parent, root = _real(os.path.dirname(path) or "."), _real(folder)
    return PurePosixPath(parent).is_relative_to(root)


def _real(path: str) -> str:
    return unicodedata.normalize("NFC", os.path.realpath(path))


def _without_scheme(path: str) -> str:
    return re.sub(r"^(file|local)://", "", path)


def restored_saver(
    state: Mapping[str, Any], saver: ModelCheckpoint, new: str | None
) -> tuple[dict[str, Any], list[str]]:
    """State of a ModelCheckpoint with which `saver` touches nothing outside its folder, and the paths left out.

    new: the folder of the checkpoints of a run that may have been moved, else None. What belongs to another folder is
    forgotten, and with it the ranking, which is of use as a whole only.
    """
    own, old = str(saver.dirpath), state.get("dirpath")
    if new and old:
        state = _moved(state, old, new)
    strays = [path for path in _paths(state) if not (path.endswith(".ckpt") and inside(path, own))]
    if not strays and _ranked(state, saver):
        return dict(state), []
    kept = {name: state.get(name, "") for name in ("best_model_path", "last_model_path")}
    kept = {name: "" if path in strays else path for name, path in kept.items()}
    return {**state, **ModelCheckpoint.state_dict(saver), "dirpath": own, **kept}, strays


def _paths(state: Mapping[str, Any]) -> Iterator[str]:
    for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
        if state.get(name):
            yield state[name]
    yield from state.get("best_k_models", {})


def _ranked(state: Mapping[str, Any], saver: ModelCheckpoint) -> bool:
    """Whether the worst of the kept checkpoints is one of them, as Lightning takes for granted once there are k."""
    kept, worst = state.get("best_k_models", {}), state.get("kth_best_model_path", "")
    return worst in kept or (not worst and (saver.save_top_k < 1 or len(kept) < saver.save_top_k))


def _moved(value: Any, old: str, new: str) -> Any:
    """`value` with the folder `old` replaced by `new` at the start of every path in it."""
    if isinstance(value, dict):
        return {_moved(k, old, new): _moved(v, old, new) for k, v in value.items()}
    return new + value[len(old) :] if isinstance(value, str) and value.startswith(old) else value
