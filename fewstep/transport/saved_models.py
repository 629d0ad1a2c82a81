"""A conditional model in a folder, transport.json and model.safetensors, and in the checkpoint of a run.

transport.json is {schema: 1, network, options, columns}: a class of this room, its arguments, and the columns of its
table (units.py). A run's checkpoint holds the same under "transport". Both are untrusted: nothing is unpickled or
imported by name, and no memory is taken before the sizes are known to be those of the weights.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.files.durable import replace_file
from fewstep.files.hub import check_keys, read_weights, weights_file
from fewstep.files.plain_json import read_json
from fewstep.files.plain_reader import dense, either, fields, mapping, named, refuse, whole
from fewstep.one_line import one_line
from fewstep.transport.conditional_model import ConditionalModel
from fewstep.transport.discrete_transport import DiscreteTransport
from fewstep.transport.energy import EnergyTransport
from fewstep.transport.light_transport import LightTransport
from fewstep.transport.stacked_transport import StackedTransport
from fewstep.transport.units import Units, read_units

DESCRIPTION, WEIGHTS = "transport.json", "model.safetensors"
NETWORKS: dict[str, Any] = {
    kind.__name__: kind for kind in (LightTransport, EnergyTransport, DiscreteTransport, StackedTransport)
}
TRAINING_ONLY = ("queue", "buffer.", "networks.", "best", "held_out_nll")  # what only a training reads
SMALL: dict[str, dict[str, int]] = {kind: {} for kind in NETWORKS}
SMALL |= {"LightTransport": {"queue_size": 0}, "EnergyTransport": {"buffer_capacity": 1}}
LARGEST = 1 << 31  # of a size


def describe(network: nn.Module, units: Units | None) -> dict[str, Any]:
    """What rebuilds a model around its weights, as plain values; a network of another room is not named."""
    told: dict[str, Any] = {"schema": 1, "columns": units.as_dict() if units else None}
    if (kind := type(network).__name__) in NETWORKS and type(network) is NETWORKS[kind]:
        told |= {"network": kind, "options": {**vars(network)["options"], **SMALL[kind]}}
    return told


def save(model: ConditionalModel, folder: str | Path) -> None:
    """Write transport.json and model.safetensors; ValueError for a network that is none of this room."""
    from safetensors.torch import save as as_safetensors

    told = describe(model.network, model.units)
    if "network" not in told:
        raise ValueError(f"a {type(model.network).__name__} cannot be exported; choose one of {', '.join(NETWORKS)}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().cpu().contiguous() for name, value in needed(model.network.state_dict()).items()}
    replace_file(folder / WEIGHTS, as_safetensors(state))
    replace_file(folder / DESCRIPTION, json.dumps(told, indent=1).encode() + b"\n")


def load(source: str | Path) -> ConditionalModel:
    """The model of an export (a folder or hub id), of a run (its best checkpoint, else the last) or of a .ckpt file.

    With averaged weights where the run kept an average; in eval mode, without gradients, on the CPU. ValueError in one
    line for what is no such thing.
    """
    path = Path(source)
    checkpoints = [path / "checkpoints" / name for name in ("best.ckpt", "last.ckpt")]
    found = [path] if path.suffix == ".ckpt" else [file for file in checkpoints if file.is_file()]
    if found and not (path / DESCRIPTION).is_file():
        return from_checkpoint(found[0])
    if path.is_dir() and not (path / DESCRIPTION).is_file():
        raise ValueError(
            f"{source} is neither a run nor an export: no checkpoints/best.ckpt and no {DESCRIPTION} in it"
        )
    description, weights = (weights_file(source if path.is_dir() else path, name) for name in (DESCRIPTION, WEIGHTS))
    try:
        told = read_json(description)
    except ValueError as error:
        raise ValueError(f"{description}: {one_line(error)}; export it again") from None
    return rebuilt(told, read_weights(weights), description)


def from_checkpoint(file: Path) -> ConditionalModel:
    """The model of a run's checkpoint, read as tensors and plain values only."""
    if not file.is_file():
        raise ValueError(f"no file {file}; give RUN, RUN/checkpoints/NAME.ckpt or an export")
    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises many kinds; all mean that this file is of no use
        raise ValueError(f"checkpoint {file} cannot be read: {one_line(error, 120)}; use an older one") from None
    averages = fields({}, EMA=fields({"average": named(dense)}))
    try:
        fields({"state_dict": named(dense)}, callbacks=averages)(checkpoint, "")
    except ValueError as error:
        raise ValueError(f"{file} is no checkpoint of a run: {error}; give RUN/checkpoints/NAME.ckpt") from None
    if checkpoint.get("transport") is None:
        raise ValueError(f"checkpoint {file} does not tell its network and the columns of its table; train it again")
    average = checkpoint.get("callbacks", {}).get("EMA", {}).get("average", {})
    state, prefix = {**checkpoint["state_dict"], **average}, "model."
    weights = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    return rebuilt(checkpoint["transport"], weights, file)


def rebuilt(told: Any, weights: Mapping[str, Tensor], source: Path) -> ConditionalModel:
    """The model that a description and weights make; ValueError in one line, naming the source."""
    try:
        fields({"schema": whole, "columns": mapping, "network": either(*NETWORKS), "options": named(option)})(told, "")
        if told["schema"] != 1:
            raise ValueError(f"it has schema {told['schema']}, this version reads 1")
        network = empty(told["network"], told["options"])
    except ValueError as error:
        raise ValueError(f"{source}: {one_line(error, 200)}; export it again") from None
    units = read_units(told["columns"], str(source))
    if (network.x_dim, network.y_dim) != (units.x_dim, units.y_dim):
        raise ValueError(f"{source}: its network is of other dimensions than its columns; export it again")
    state = needed(weights)
    check_keys(state, needed(network.state_dict()), source)
    state = {name: value.float().clone() for name, value in state.items()}
    if not all(value.isfinite().all() for value in state.values()):
        raise ValueError(f"{source} holds weights that are not finite; export it again")
    others = {name: torch.zeros_like(v, device="cpu") for name, v in network.state_dict().items() if name not in state}
    network.load_state_dict(state | others, assign=True)
    return ConditionalModel(network.eval().requires_grad_(False), units)


def empty(kind: str, options: Mapping[str, Any]) -> Any:
    """A network without values, which takes no memory however large its options are."""
    try:
        with torch.device("meta"):
            return NETWORKS[kind](**{**options, **SMALL[kind]})
    except (TypeError, ValueError, RuntimeError, OverflowError, AttributeError) as error:
        raise ValueError(f"its options make no {kind}: {one_line(error, 120)}") from None


def needed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a trained network answers with, without what only a training reads."""
    return {name: value for name, value in state.items() if not name.startswith(TRAINING_ONLY)}


def option(value: Any, name: str) -> None:
    """An argument of a network: a bounded number, a short text, a flag, nothing, or a list of numbers."""
    for one in value if isinstance(value, list) else [value]:
        plain = one is None or type(one) is bool or (type(one) is str and len(one) < 100)
        if not plain and not (type(one) in (int, float) and abs(one) <= LARGEST):
            refuse(one, name, "a number, a text or a flag")
