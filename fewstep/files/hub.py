"""Published weights: a file, a folder that holds it, or a hub id `owner/name`. One clear line where there is none."""

import re
from pathlib import Path

import torch
from torch import Tensor

from fewstep.one_line import one_line

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
FILE_SUFFIXES = {".bin", ".pt", ".pth", ".ckpt", ".safetensors", ".txt", ".json"}


def weights_file(source: str | Path, filename: str) -> Path:
    """The local path of `filename`, where `source` is this file, a folder that holds it, or a hub id (downloaded once).

    ValueError in one line, with the file to put there, when it is missing and cannot be downloaded.
    """
    path = Path(source)
    if path.is_file():
        return path
    if path.is_dir():
        if (path / filename).is_file():
            return path / filename
        raise ValueError(f"the folder {source} holds no {filename}; put that file there or name another one")
    if path.suffix in FILE_SUFFIXES or not HUB_ID.fullmatch(str(source)):
        raise ValueError(f"no file {source}; give the path of {filename}, its folder, or a hub id such as owner/name")
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(str(source), filename, local_files_only=True))  # already there: ask nobody
    except OSError:
        pass
    try:
        return Path(hf_hub_download(str(source), filename))
    except Exception as error:  # of a dozen kinds: no network, no such repository, no permission, a full disk
        raise ValueError(missing(source, filename, error)) from None


def missing(source: str | Path, filename: str, error: Exception) -> str:
    """One line for a hub file that could not be had: which file to fetch where, and that its path is accepted."""
    reason = one_line(f"{type(error).__name__}: {error}", 160)
    return (
        f"cannot get {filename} of {source} ({reason}); without a network, download "
        f"https://huggingface.co/{source}/resolve/main/{filename} elsewhere and give the path of the file or its folder"
    )


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """A flat state dict from .safetensors or from torch.save (weights only, nothing is unpickled), on the CPU."""
    try:
        if Path(path).suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the zip, pickle and safetensors readers raise whatever they stumble over
        raise ValueError(
            f"cannot read weights from {path}: {one_line(error, 120)}; is the download complete?"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} is not a flat state dict of tensors; give the published weights file itself")
    return state


def check_keys(state: dict[str, Tensor], wanted: dict[str, Tensor], source: str | Path) -> None:
    """ValueError in one line unless `state` has exactly the names and shapes of `wanted`."""
    lacking, unknown = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    if lacking or unknown:
        example = f"lacks {lacking[0]}" if lacking else f"has an unknown {unknown[0]}"
        raise ValueError(
            f"{source} does not fit this architecture: it {example} "
            f"({len(lacking)} entries lacking, {len(unknown)} unknown); is it another model's file?"
        )
    for name, value in wanted.items():
        if state[name].shape != value.shape:
            raise ValueError(
                f"{source} does not fit this architecture: {name} has shape {list(state[name].shape)}, "
                f"needed is {list(value.shape)}; is it another model's file, or are the sizes given wrong?"
            )
