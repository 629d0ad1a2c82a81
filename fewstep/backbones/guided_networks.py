"""Networks with a guidance embedding in files: `save_pretrained` folders, and the state dicts of iCD's authors.

guidance.json beside the weights says which scales the network was trained on: {"schema": 1, "guidance_scales": [1, 8]}.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.backbones.denoisers import add_guidance_embedding, guidance_embedding, has_guidance_embedding
from fewstep.backbones.pretrained import copied_to, diffusers_network, frozen_network, network_config, own_or_part
from fewstep.files.hub import FILE_SUFFIXES, check_keys, read_weights, weights_file
from fewstep.files.plain_json import read_json

PARTS = {"UNet2DConditionModel": "unet", "SD3Transformer2DModel": "transformer"}
WEIGHTS = "diffusion_pytorch_model.safetensors"
_UNET_EMBEDDING = "time_embedding.cond_proj.weight"
_SD3_EMBEDDING = "time_text_embed.guidance.projection.weight"
_NONE = "has no guidance embedding; distil guidance into this network first"


def save_guided_network(
    folder: str | Path, model: nn.Module, guidance_scales: Sequence[float], dtype: torch.dtype = torch.float32
) -> None:
    """Write a folder that `load_guided_network` reads, and plain diffusers too where it is a UNet."""
    if not has_guidance_embedding(model):
        raise ValueError(f"a {type(model).__name__} without guidance embedding has no guidance_scales; add one first")
    content = {"schema": 1, "guidance_scales": [float(scale) for scale in guidance_scales]}
    _scales_of(content, "guidance_scales")
    copied_to(model, dtype).save_pretrained(str(folder))
    Path(folder, "guidance.json").write_text(json.dumps(content, indent=2) + "\n")


def load_guided_network(
    source: str | Path, config: Mapping[str, Any] | None = None, dtype: torch.dtype = torch.float32
) -> tuple[nn.Module, tuple[float, ...] | None]:
    """(network, the scales it was trained on, None if nobody says) of a network's folder, a pipeline's, or a hub id.

    Frozen, eval mode, on the CPU. Also reads a file with the state dict of a UNet, such as sd15_cfg_distill.pt of iCD's
    authors (never unpickled), given the config of its pipeline's UNet. ValueError in one line if it is no such network.
    """
    model, scales = load_denoising_network(source, config, dtype)
    if not has_guidance_embedding(model):
        raise ValueError(f"{source} {_NONE}")
    return model, scales


def load_denoising_network(
    source: str | Path, config: Mapping[str, Any] | None = None, dtype: torch.dtype = torch.float32, part: str = "unet"
) -> tuple[nn.Module, tuple[float, ...] | None]:
    """As `load_guided_network`, but with or without guidance embedding. part: in which a pipeline holds it."""
    if Path(source).suffix in FILE_SUFFIXES:
        return _from_state(source, config, dtype), None
    import diffusers

    if Path(source, "transformer", "config.json").is_file():
        part = "transformer"
    name = str(network_config(source, part).get("_class_name"))
    if name not in PARTS:
        raise ValueError(f"{source} holds a {name}; supported are {' and '.join(PARTS)}")
    model = frozen_network(getattr(diffusers, name), source, part, WEIGHTS, dtype)
    within = "" if own_or_part(source, part) == {} else f"{part}/"
    if name == "SD3Transformer2DModel" and (weight := _stored_tensor(source, within, _SD3_EMBEDDING)) is not None:
        add_guidance_embedding(model, weight.shape[1])
        embedding = guidance_embedding(model)
        assert embedding is not None
        embedding.weight.data.copy_(weight)
        embedding.requires_grad_(False)
    return model, _stored_scales(source, within) if has_guidance_embedding(model) else None


def _from_state(source: str | Path, config: Mapping[str, Any] | None, dtype: torch.dtype) -> nn.Module:
    if config is None:
        raise ValueError(f"{source} holds weights alone: give the config of its pipeline's UNet, or a whole folder")
    state = read_weights(weights_file(source, Path(source).name))
    if _UNET_EMBEDDING not in state:
        raise ValueError(f"{source} {_NONE}")
    sizes = {name: value for name, value in config.items() if not name.startswith("_")}
    with torch.device("meta"):  # draws no random weights
        model = diffusers_network(
            "UNet2DConditionModel", sizes | {"time_cond_proj_dim": state[_UNET_EMBEDDING].shape[-1]}
        )
    check_keys(state, model.state_dict(), source)
    model.load_state_dict({name: value.to(dtype) for name, value in state.items()}, assign=True)
    return model.eval().requires_grad_(False)


def _stored_tensor(source: str | Path, within: str, name: str) -> Tensor | None:
    """One tensor of a network's weights in one file, or in several with their index; None where it is lacking."""
    from safetensors import safe_open

    try:
        file = weights_file(source, within + WEIGHTS)
    except ValueError:
        index = _weight_map(weights_file(source, f"{within}{WEIGHTS}.index.json"))
        if name not in index:
            return None
        file = weights_file(source, within + index[name])
    with safe_open(file, "pt") as weights:
        return weights.get_tensor(name) if name in weights.keys() else None  # noqa: SIM118, it is no dict


def _weight_map(file: Path) -> dict[str, str]:
    """{tensor: the file beside this index that holds it}; ValueError in one line."""
    try:
        files = read_json(file)["weight_map"]
        if all(re.fullmatch(r"[\w-][\w.-]*", name) for name in files.values()):
            return dict(files)
        raise ValueError("it names a file that does not lie beside it")
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"cannot read {file}: {type(error).__name__}: {error}") from None


def _stored_scales(source: str | Path, within: str) -> tuple[float, ...] | None:
    try:
        file = weights_file(source, f"{within}guidance.json")
    except ValueError:
        return None
    try:
        return _scales_of(read_json(file), str(file))
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {file}: {error}") from None


def _scales_of(content: Any, source: str) -> tuple[float, ...]:
    scales = content.get("guidance_scales") if isinstance(content, dict) and content.get("schema") == 1 else None
    numbers = isinstance(scales, list) and all(isinstance(s, int | float) and math.isfinite(s) for s in scales)
    if not scales or not numbers:
        raise ValueError(f'{source} must be {{"schema": 1, "guidance_scales": [1, ..]}} with numbers, got {content}')
    return tuple(float(scale) for scale in scales)
