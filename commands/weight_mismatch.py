"""Weights that do not fit a model, said in one line."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from fewstep.one_line import one_line

SHOWN = 3  # names of each kind


def describe_misfit(text: str) -> str:
    """Counts and at most three names of each kind from the message of `load_state_dict`, and what to do.

    text: "Error(s) in loading state_dict for Net: Missing key(s) in state_dict: "a", "b". ... size mismatch for c: ..."
    """
    parts = []
    for kind, phrase in (("missing", "Missing"), ("unexpected", "Unexpected")):
        listed = re.search(rf'{phrase} key\(s\) in state_dict: ((?:"[^"]*"(?:, )?)+)', text)
        names = re.findall(r'"([^"]*)"', listed[1]) if listed else []
        if names:
            parts.append(f"{len(names)} {kind} ({_some(names)})")
    pattern = (
        r"size mismatch for (\S+): .*?shape torch\.Size\((.*?)\) from checkpoint, .*?model is torch\.Size\((.*?)\)"
    )
    wrong = [f"{name} {old} for {new}" for name, old, new in re.findall(pattern, text)]
    if wrong:
        parts.append(f"{len(wrong)} of another shape ({_some(wrong)})")
    remedy = "build the model with the checkpoint's own config"
    return f"the checkpoint does not fit the model: {'; '.join(parts) or one_line(text, 160)}; {remedy}"


def require_same_class(checkpoint: Mapping[str, Any], model: nn.Module, name: object, config: object) -> None:
    """ValueError where a run of another class of module wrote the checkpoint. name, config: what a line calls them."""
    trained = checkpoint.get("hyper_parameters", {}).get("_class_path", "").rpartition(".")[2]
    if trained and trained != type(model).__name__:
        raise ValueError(f"checkpoint {name} holds a {trained}, {config} asks for a {type(model).__name__}")


def require_same_numbers(stored: Mapping[str, Any], model: nn.Module) -> None:
    """ValueError where whole numbers would stand for real ones or the reverse, which loading rounds without a word."""
    for name, weight in model.state_dict().items():
        found = stored.get(name)
        if isinstance(found, Tensor) and isinstance(weight, Tensor) and _kind(found) != _kind(weight):
            raise ValueError(f"the checkpoint's {name} is of {found.dtype}, the model's of {weight.dtype}")


def _kind(weight: Tensor) -> tuple[bool, bool]:
    return weight.is_floating_point(), weight.is_complex()


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
