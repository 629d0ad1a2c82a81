"""Networks of this room in a folder: config.json with what they are built of, and model.safetensors."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from fewstep.files.hub import check_keys, read_weights, weights_file
from fewstep.files.plain_json import read_json

Network = TypeVar("Network", bound=nn.Module)


def save_network(network: nn.Module, config: Mapping[str, Any], folder: str | Path) -> None:
    """Write config.json and model.safetensors, in the type of the weights."""
    from safetensors.torch import save

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    content = save({n: v.contiguous().cpu() for n, v in network.state_dict().items()})
    (folder / "model.safetensors").write_bytes(content)  # save_file would hide it from other users
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")


def load_network(
    source: str | Path, what: str, build: Callable[..., Network], needed: Sequence[str], optional: Sequence[str] = ()
) -> Network:
    """build(**config) with the weights of a folder or hub id that `save_network` wrote.

    Frozen, in eval mode, float32 on the CPU. needed, optional: entries of the config. ValueError in one line.
    """
    config, weights = (weights_file(source, name) for name in ("config.json", "model.safetensors"))
    content = read_json(config)
    if not isinstance(content, dict) or content.keys() - set(optional) != set(needed):
        raise ValueError(f"{config} describes no {what}: it needs {', '.join(needed)}")
    network = build(**content)
    state = {name: value.float() for name, value in read_weights(weights).items()}
    check_keys(state, network.state_dict(), weights)
    if not all(value.isfinite().all() for value in state.values()):
        raise ValueError(f"{weights} holds values that are not finite; export it again")
    network.load_state_dict(state)
    return network.eval().requires_grad_(False)
