"""Files of LoRA adapters: written as plain diffusers loads them, read in the forms that are in use."""

import json
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fewstep.files.hub import read_weights, weights_file
from fewstep.files.plain_json import parse_json

DIFFUSERS_FILE, PEFT_FILE = "pytorch_lora_weights.safetensors", "adapter_model.safetensors"
# diffusers reads rank and alpha under this name of the safetensors header (LORA_ADAPTER_METADATA_KEY).
SETTINGS = "lora_adapter_metadata"
# LAYER.lora_A.weight of peft (released before: .lora_A.default.weight), .lora.down and .lora_linear_layer.down of
# diffusers, to_q_lora.down of its attention processors, .lora_down of kohya; B or up alike.
# What pipelines and kohya call the text encoders.
TEXT_ENCODER = re.compile(r"(text_encoder(_\d+)?\.|lora_te\d*_).*")
# peft's names without peft's settings, as the authors of iCD store them: these files tell no alpha.
OF_PEFT = "base_model.model."
ENTRY = re.compile(r"(.+?)(?:\.lora_linear_layer\.|\.lora[._]|_lora\.)(A|B|down|up)(?:\.default)?\.weight")


@dataclass(frozen=True)
class AdapterFile:
    """An adapter as a file has it: peft's names -> weights; None is what the file does not tell, nor its form mean.

    states_alpha: whether alpha is stored, or meant to be the rank.
    """

    state: dict[str, Tensor]
    rank: int
    alpha: float | None
    states_alpha: bool
    base_sha256: str | None
    base_dtype: str | None


def save_adapter(
    folder: Path, state: Mapping[str, Tensor], part: str, settings: Mapping[str, Any], base: Mapping[str, str]
) -> None:
    """Write FOLDER/pytorch_lora_weights.safetensors.

    part: what pipelines call the network, "unet" or "transformer". settings: arguments of peft's LoraConfig; older
    diffusers, which ignores them, takes alpha for the rank. base: base_sha256 and base_dtype of the network.
    """
    from safetensors.torch import save_file

    header = {
        "format": "pt",
        SETTINGS: json.dumps({f"{part}.{key}": value for key, value in settings.items()}, sort_keys=True),
        **base,
    }
    folder.mkdir(parents=True, exist_ok=True)
    weights = {f"{part}.{key}": weight.cpu().contiguous() for key, weight in state.items()}
    save_file(weights, folder / DIFFUSERS_FILE, metadata=header)


def read_adapter(source: str | Path, layers: Sequence[str]) -> AdapterFile:
    """From a file, a folder or a hub id of diffusers or peft; `layers`: the names that the base has for its layers.

    A file of diffusers or kohya that stores no alpha means its rank, as their loaders take it. What it holds for a text
    encoder is left out, with a warning. ValueError in one line where it is no LoRA adapter of the network, or one whose
    scale is not alpha / rank in every layer.
    """
    name = PEFT_FILE if Path(source, PEFT_FILE).is_file() else DIFFUSERS_FILE
    path = weights_file(source, name)
    weights = _of_network(read_weights(path), source)
    state, stated = convert_released(weights, layers, source)
    header, settings = _header(path)
    if settings.get("use_rslora") or settings.get("alpha_pattern") or settings.get("rank_pattern"):
        raise ValueError(f"{source} scales its layers differently; only adapters with one rank and one alpha are read")
    ranks = {weight.shape[0] for key, weight in state.items() if key.endswith("lora_A.weight") and weight.ndim}
    alphas = stated | ({float(settings["lora_alpha"])} if "lora_alpha" in settings else set())
    told = {_layer(key.removesuffix(".alpha")) for key in weights if key.endswith(".alpha")}
    named = {_layer(entry[1]) for key in weights if (entry := ENTRY.fullmatch(key))}
    if stray := sorted(told - named):
        raise ValueError(f"{source} has an alpha for {stray[0]:.80}, and no weights ({len(stray)} such)")
    if "lora_alpha" not in settings and not any(OF_PEFT in key for key in weights):
        alphas |= {float(rank) for rank in ranks} if named - told else set()
    if odd := [alpha for alpha in alphas if not 0 < alpha < math.inf]:
        raise ValueError(f"{source} states alpha {odd[0]:g}, which scales its layers to nothing that was trained")
    if len(alphas) > 1 or len(ranks) != 1:
        raise ValueError(f"{source} needs one rank and one alpha, it has {sorted(ranks)} and {sorted(alphas)}")
    if bad := [key for key, weight in state.items() if not weight.isfinite().all()]:
        raise ValueError(f"{source} holds NaN or infinity in {bad[0]} ({len(bad)} of {len(state)} weights)")
    base = header.get("base_sha256"), header.get("base_dtype")
    states_alpha = bool(stated) or "lora_alpha" in settings
    return AdapterFile(state, ranks.pop(), alphas.pop() if alphas else None, states_alpha, *base)


def _of_network(state: Mapping[str, Tensor], source: str | Path) -> dict[str, Tensor]:
    """The entries for the network itself; a warning for those of a text encoder, ValueError if there are no others."""
    kept = {key: weight for key, weight in state.items() if not TEXT_ENCODER.fullmatch(key)}
    others = len(state) - len(kept)
    if others and not kept:
        raise ValueError(f"{source} adapts a text encoder only; adapters of the network itself are read")
    if others:
        warnings.warn(
            f"{source} adapts the text encoder too ({others} entries); that part is left out, so pictures differ from "
            "those of both parts",
            stacklevel=2,
        )
    return kept


def convert_released(
    state: Mapping[str, Tensor], layers: Sequence[str], source: str | Path = "this state"
) -> tuple[dict[str, Tensor], set[float]]:
    """(peft's names -> weights, the alphas stored as tensors) from any of the names that adapters are released under.

    The authors' of iCD are `unet.base_model.model.LAYER.lora_A.weight`; they store no alpha and mean 8 (rank 64).
    layers: names of the base's layers, without which kohya's `lora_unet_down_blocks_0_...` cannot be read.
    """
    kohya = {f"lora_{part}_{name.replace('.', '_')}": name for name in layers for part in ("unet", "transformer")}
    converted: dict[str, Tensor] = {}
    alphas: set[float] = set()
    for key, weight in state.items():
        if key.endswith(".alpha") and weight.numel() == 1:
            alphas.add(float(weight))
            continue
        entry = ENTRY.fullmatch(key)
        if entry is None:
            raise ValueError(f"{source} has an unknown {key}; only LoRA adapters of the network itself are read")
        layer, half = kohya.get(entry[1]) or _layer(entry[1]), "A" if entry[2] in ("A", "down") else "B"
        name = f"{layer}.lora_{half}.weight"
        if name in converted:
            raise ValueError(f"{source} holds {name} twice, under {key} and another name")
        converted[name] = weight
    return converted, alphas


def check_fits(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], source: str | Path) -> None:
    """ValueError in one line unless `state` has exactly the names and shapes of `wanted`."""
    lacking, unknown = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    reason = None
    if unknown:
        reason = f"has an unknown {unknown[0]} ({len(unknown)} entries unknown, {len(lacking)} lacking)"
    elif lacking:
        reason = f"lacks {lacking[0]} ({len(lacking)} entries lacking)"
    for name in [] if reason else wanted:
        if state[name].shape != wanted[name].shape:
            reason = f"has {name} of shape {list(state[name].shape)}, needed is {list(wanted[name].shape)}"
            break
    if reason:
        raise ValueError(f"{source} is an adapter for another base: it {reason}; load the network it was trained on")


def _layer(name: str) -> str:
    for prefix in ("unet.", "transformer.", "base_model.model."):
        name = name.removeprefix(prefix)
    name = name.replace(".processor.", ".")
    return f"{name}.0" if name.endswith(".to_out") else name


def _header(path: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """(header of a safetensors file, its LoraConfig, or the one that peft wrote beside it)."""
    header: dict[str, str] = {}
    if path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
    config = path.with_name("adapter_config.json")
    try:
        text = header.get(SETTINGS) or (config.read_text() if path.name == PEFT_FILE and config.is_file() else "{}")
        stated = {key: value for key, value in parse_json(text).items() if not TEXT_ENCODER.fullmatch(key)}
        settings = {key.rpartition(".")[2]: value for key, value in stated.items()}
        for key, value in stated.items():
            if value != (other := settings[key.rpartition(".")[2]]):
                raise ValueError(f"{key} is {value} and {other}")
        float(settings.get("lora_alpha", 0))
        return header, settings
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} has unreadable settings ({error}); rank and alpha are stated there") from None
