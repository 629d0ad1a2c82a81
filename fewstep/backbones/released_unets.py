"""Networks of two other code bases as UNet2DModels: ADM (Dhariwal and Nichol 2021) and DDPM (Ho et al. 2020).

ADM: the names of guided-diffusion, which ILVR's and many others' files have, too. DDPM: the names of the PyTorch port
whose files SDEdit and DiffusionCLIP use. The architecture is read off the names and shapes of the weights.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.backbones.pretrained import check_weights, diffusers_network
from fewstep.files.hub import check_keys, read_weights, weights_file
from fewstep.one_line import one_line

State = dict[str, Tensor]
Parts = list[tuple[str, str, str]]  # theirs, ours, "layer", "resnet" or "attention"

_OF_ADM = {"in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj", "out_layers.0": "norm2"}
_OF_ADM |= {"out_layers.3": "conv2", "skip_connection": "conv_shortcut"}
_OF_DDPM = {name: name for name in ("norm1", "conv1", "norm2", "conv2")}
_OF_DDPM |= {"temb_proj": "time_emb_proj", "nin_shortcut": "conv_shortcut"}
_GROUPS = 32  # of every normalization, in both
_HALVES = ("weight", "bias")


def load_released_unet(
    source: str | Path, image_size: int, head_channels: int = 64, interleaved: bool = True
) -> nn.Module:
    """A frozen UNet2DModel with the weights of a file (.pt, never unpickled, or safetensors), float32, on the CPU.

    Pickled files must be flat state dicts. image_size: of its pictures, which no weight tells. Of ADM only:
    head_channels of attention (64 in its published networks; one width for all levels), and interleaved: how queries,
    keys and values of heads lie in a weight (False: `use_new_attention_order`). ValueError in one line for a network
    that is told classes, and for any other architecture. `save_ddpm` writes it as a folder that `load_base` takes.
    """
    state = {name: weight.float() for name, weight in read_weights(weights_file(source, Path(source).name)).items()}
    if "label_emb.weight" in state:
        raise ValueError(f"{source} is told classes (label_emb); use a network that was trained without")
    try:
        config, renamed = _converted(state, head_channels, interleaved)
        with torch.device("meta"):  # draws no random weights
            model = diffusers_network("UNet2DModel", config | {"sample_size": image_size, "norm_num_groups": _GROUPS})
    except (ValueError, LookupError, TypeError, RuntimeError) as error:  # the last three of weights of odd shapes
        raise ValueError(f"cannot convert {source}, is it complete? {one_line(error)}") from None
    check_keys(renamed, model.state_dict(), str(source))
    model.load_state_dict(renamed, assign=True)
    check_weights(model, source, "network")
    return model.eval().requires_grad_(False)


def _converted(state: State, head_channels: int, interleaved: bool) -> tuple[dict[str, Any], State]:
    """The config and the weights under our names; they are taken out of `state`."""
    if "input_blocks.0.0.weight" in state:
        config, parts = _adm(state, head_channels)
        renamed = _renamed(state, parts, _OF_ADM, lambda s, old: _joint_attention(s, old, head_channels, interleaved))
    elif "temb.dense.0.weight" in state:
        config, parts = _ddpm(state)
        renamed = _renamed(state, parts, _OF_DDPM, _separate_attention)
    else:
        raise ValueError("it has neither the names of guided-diffusion (ADM) nor of DDPM's PyTorch port")
    if state:
        raise ValueError(f"it has an unknown {min(state)} ({len(state)} such); is it a plain ADM or DDPM network?")
    return config, renamed


def _adm(state: State, head_channels: int) -> tuple[dict[str, Any], Parts]:
    """The config and the parts. Blocks are numbered through all levels, each of some layers and a step down or up."""
    num = len({name.split(".")[1] for name in state if name.startswith("output_blocks.")})

    def up(block: int) -> str | None:
        for part in (f"output_blocks.{block}.{place}" for place in (1, 2)):
            if f"{part}.conv.weight" in state or f"{part}.in_layers.0.weight" in state:
                return part
        return None

    layers = next((block for block in range(num) if up(block)), num - 1)
    if layers < 1 or num % (layers + 1):
        raise ValueError(f"it has {num} output blocks, {layers + 1} to the first step up; it is no ADM network")
    levels = num // (layers + 1)
    parts: Parts = [("time_embed.0", "time_embedding.linear_1", "layer"), ("out.0", "conv_norm_out", "layer")]
    parts += [("time_embed.2", "time_embedding.linear_2", "layer"), ("out.2", "conv_out", "layer")]
    parts += [("input_blocks.0.0", "conv_in", "layer"), ("middle_block.0", "mid_block.resnets.0", "resnet")]
    parts += [("middle_block.1", "mid_block.attentions.0", "attention")]
    parts += [("middle_block.2", "mid_block.resnets.1", "resnet")]
    widths, attends = [], []
    by_resnets = f"input_blocks.{layers + 1}.0.in_layers.0.weight" in state
    for level in range(levels):
        first, ours = 1 + level * (layers + 1), f"down_blocks.{level}"
        attends.append(f"input_blocks.{first}.1.qkv.weight" in state)
        for layer in range(layers):
            parts.append((f"input_blocks.{first + layer}.0", f"{ours}.resnets.{layer}", "resnet"))
            parts += [(f"input_blocks.{first + layer}.1", f"{ours}.attentions.{layer}", "attention")] * attends[-1]
        widths.append(len(_weight(state, f"input_blocks.{first}.0.out_layers.3")))
        if level < levels - 1:
            down = f"input_blocks.{first + layers}.0"
            resnet = (down, f"{ours}.downsamplers.0", "resnet")
            parts.append(resnet if by_resnets else (f"{down}.op", f"{ours}.downsamplers.0.conv", "layer"))
    for place, level in enumerate(reversed(range(levels))):
        first, ours = place * (layers + 1), f"up_blocks.{place}"
        for layer in range(layers + 1):
            parts.append((f"output_blocks.{first + layer}.0", f"{ours}.resnets.{layer}", "resnet"))
            parts += [(f"output_blocks.{first + layer}.1", f"{ours}.attentions.{layer}", "attention")] * attends[level]
        if level and (step := up(first + layers)):
            resnet = (step, f"{ours}.upsamplers.0", "resnet")
            parts.append(resnet if by_resnets else (f"{step}.conv", f"{ours}.upsamplers.0.conv", "layer"))
    shifts = len(_weight(state, "input_blocks.1.0.emb_layers.1")) == 2 * widths[0]
    plain = ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D") if by_resnets else ("DownBlock2D", "UpBlock2D")
    for width in (*(width for width, has in zip(widths, attends, strict=True) if has), widths[-1]):
        if width % head_channels:
            raise ValueError(f"head_channels={head_channels} does not divide {width} channels; give that of training")
    config: dict[str, Any] = {"attention_head_dim": head_channels, "attn_norm_num_groups": _GROUPS, "norm_eps": 1e-5}
    config |= {"resnet_time_scale_shift": "scale_shift" if shifts else "default", "downsample_padding": 1}
    config |= dict.fromkeys(("downsample_type", "upsample_type"), "resnet" if by_resnets else "conv")
    config |= {"flip_sin_to_cos": True, "freq_shift": 0}  # cosines first
    return config | _shape(state, "input_blocks.0.0", "out.2", widths, attends, layers, plain), parts


def _ddpm(state: State) -> tuple[dict[str, Any], Parts]:
    levels = len({name.split(".")[1] for name in state if name.startswith("down.")})
    layers = len({name.split(".")[3] for name in state if name.startswith("down.0.block.")})
    parts: Parts = [(f"temb.dense.{place}", f"time_embedding.linear_{place + 1}", "layer") for place in (0, 1)]
    parts += [
        ("conv_in", "conv_in", "layer"),
        ("norm_out", "conv_norm_out", "layer"),
        ("conv_out", "conv_out", "layer"),
    ]
    parts += [(f"mid.block_{place + 1}", f"mid_block.resnets.{place}", "resnet") for place in (0, 1)]
    parts.append(("mid.attn_1", "mid_block.attentions.0", "attention"))
    attends = [f"down.{level}.attn.0.q.weight" in state for level in range(levels)]
    for level, attend in enumerate(attends):
        blocks = (("down", f"down_blocks.{level}", layers), ("up", f"up_blocks.{levels - 1 - level}", layers + 1))
        for theirs, ours, num in blocks:
            for layer in range(num):
                parts.append((f"{theirs}.{level}.block.{layer}", f"{ours}.resnets.{layer}", "resnet"))
                parts += [(f"{theirs}.{level}.attn.{layer}", f"{ours}.attentions.{layer}", "attention")] * attend
            parts.append((f"{theirs}.{level}.{theirs}sample.conv", f"{ours}.{theirs}samplers.0.conv", "layer"))
    widths = [len(_weight(state, f"down.{level}.block.0.conv2")) for level in range(levels)]
    config: dict[str, Any] = {
        "attention_head_dim": None,
        "norm_eps": 1e-6,
        "downsample_padding": 0,
    }  # one head, of all channels
    config |= {"flip_sin_to_cos": False, "freq_shift": 1}
    return config | _shape(state, "conv_in", "conv_out", widths, attends, layers, ("DownBlock2D", "UpBlock2D")), parts


def _shape(
    state: State, first: str, last: str, widths: list[int], attends: list[bool], layers: int, plain: tuple[str, str]
) -> dict[str, Any]:
    down = ["AttnDownBlock2D" if attend else plain[0] for attend in attends]
    up = ["AttnUpBlock2D" if attend else plain[1] for attend in reversed(attends)]
    channels = {"in_channels": _weight(state, first).shape[1], "out_channels": len(_weight(state, last))}
    blocks = {"block_out_channels": widths, "down_block_types": down, "up_block_types": up}
    return channels | blocks | {"layers_per_block": layers}


def _weight(state: State, part: str) -> Tensor:
    if f"{part}.weight" not in state:
        raise ValueError(f"it lacks {part}.weight")
    return state[f"{part}.weight"]


def _renamed(
    state: State, parts: Parts, of_resnets: Mapping[str, str], attention: Callable[[State, str], State]
) -> State:
    """The weights under our names; they are taken out of `state`."""
    renamed: State = {}
    for theirs, ours, kind in parts:
        if kind == "attention":
            renamed |= {f"{ours}.{name}": weight for name, weight in attention(state, theirs).items()}
            continue
        names = {f"{theirs}.{a}": f"{ours}.{b}" for a, b in of_resnets.items()} if kind == "resnet" else {theirs: ours}
        for old, new in names.items():
            renamed |= {f"{new}.{half}": state.pop(f"{old}.{half}") for half in _HALVES if f"{old}.{half}" in state}
    return renamed


def _joint_attention(state: State, part: str, head_channels: int, interleaved: bool) -> State:
    """Queries, keys and values of one weight [3 C, C, 1]: for each head in turn, or each for all heads."""
    found: State = {}
    for half in _HALVES:
        if f"{part}.qkv.{half}" not in state:
            continue
        joint = state.pop(f"{part}.qkv.{half}")
        joint = joint.flatten(1) if joint.ndim > 1 else joint
        split = joint.unflatten(0, (-1, 3, head_channels) if interleaved else (3, -1, head_channels))
        three = split.unbind(1 if interleaved else 0)
        found |= {f"to_{name}.{half}": rows.flatten(0, 1).contiguous() for name, rows in zip("qkv", three, strict=True)}
    return found | _pairs(state, {f"{part}.norm": "group_norm", f"{part}.proj_out": "to_out.0"})


def _separate_attention(state: State, part: str) -> State:
    names = {f"{part}.{name}": f"to_{name}" for name in "qkv"}
    return _pairs(state, names | {f"{part}.norm": "group_norm", f"{part}.proj_out": "to_out.0"})


def _pairs(state: State, names: Mapping[str, str]) -> State:
    """Weights and biases; those of convolutions of one pixel become matrices."""
    found = {
        f"{new}.{half}": state.pop(f"{old}.{half}")
        for old, new in names.items()
        for half in _HALVES
        if f"{old}.{half}" in state
    }
    return {name: weight.flatten(1) if weight.ndim > 2 else weight for name, weight in found.items()}
