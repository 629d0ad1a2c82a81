"""Edits of several files on one base, at once."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from fewstep.fast_edit.edit_base import EditBase
from fewstep.fast_edit.edit_file import StoredEdit, check_together, read_edit
from fewstep.fast_edit.tuned import Tuned, TunedAdapters, TunedCopies
from fewstep.files.hub import check_keys


def load_edits(base: EditBase, files: Sequence[str | Path | StoredEdit]) -> Tuned:
    """All of them by name, of one kind: "lora" in the base's own network, "full" in copies of it.

    LoRA files may differ in rank, alpha and layers: all get the largest rank, filled up with zeros, and all layers.
    What each adds stays the same but for rounding; where the base is of float32, each call merges it. ValueError in one
    line for no file, two of one name, and one of another base.
    """
    edits = [file if isinstance(file, StoredEdit) else read_edit(file) for file in files]
    if not edits:
        raise ValueError("there is no edit to load; give at least one file")
    check_together(edits)
    if hasattr(base.network, "peft_config"):
        raise ValueError("the base has adapters already; load it afresh")
    for edit in edits:
        if edit.base_sha256 != base.sha256:
            raise ValueError(
                f"{edit.path} is an edit of another base, {edit.about.base} ({edit.base_sha256}, here "
                f"{base.sha256}); load the one that it was learnt on"
            )
        _check_fits(edit, base.network)
    names = [edit.name for edit in edits]
    if edits[0].kind == "full":
        copies = TunedCopies(base, names)
        for edit in edits:
            copies.load_state(edit.name, edit.state)
        return copies
    rank, scale = max(edit.rank for edit in edits), edits[0].alpha / edits[0].rank
    layers = sorted({layer for edit in edits for layer in edit.targets})
    merged = all(weight.dtype == torch.float32 for weight in base.network.parameters())
    tuned = TunedAdapters(base, names, rank, scale * rank, layers, merged)
    for edit in edits:
        tuned.load_state(edit.name, _padded(edit, tuned.state(edit.name), scale))
    return tuned


def _padded(edit: StoredEdit, wanted: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
    """The same product (alpha / rank) B A by weights of these shapes, where alpha / rank is `scale`."""
    factor = edit.alpha / edit.rank / scale
    filled = {key: torch.zeros_like(weight, device="cpu") for key, weight in wanted.items()}
    for key, weight in edit.state.items():
        if ".lora_A." in key:
            filled[key][: edit.rank] = weight
        else:
            filled[key][:, : edit.rank] = weight * factor
        if not filled[key].isfinite().all():
            raise ValueError(f"{edit.path}: its alpha of {edit.alpha:g} makes {key:.80} infinite; learn the edit again")
    return filled


def _check_fits(edit: StoredEdit, network: nn.Module) -> None:
    """Before anything of the sizes that the file claims is made."""
    if edit.kind == "full":
        check_keys(edit.state, network.state_dict(), edit.path)
        return
    for layer in edit.targets:
        try:
            base = network.get_submodule(layer)
        except AttributeError:
            base = None
        if not isinstance(base, nn.Linear | nn.Conv2d):
            raise ValueError(f"{edit.path} adapts {layer!r:.80}, and {type(network).__name__} has no such layer")
        shape = list(base.weight.shape)
        down, up = (edit.state[f"{layer}.lora_{half}.weight"] for half in "AB")
        if [*down.shape[1:]] != shape[1:] or [*up.shape] != [shape[0], edit.rank, *[1] * len(shape[2:])]:
            raise ValueError(
                f"{edit.path} adapts {layer} by weights {list(down.shape)} and {list(up.shape)}, which do not fit the "
                f"base's {shape}; it is another model's"
            )
