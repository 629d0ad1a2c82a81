"""A network that reads attributes of a picture: which of its values each attribute has, as log-probabilities."""

import difflib
import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.files.hub import check_keys, read_weights, weights_file
from fewstep.files.plain_json import read_json
from fewstep.one_line import one_line
from fewstep.picture_size import Size, as_stored, as_text, height_and_width

Values = Mapping[str, Sequence[str]]  # {attribute: its values}


class AttributeReader(nn.Module):
    """A trunk of timm with one linear head for each attribute on its last feature map, which keeps places apart.

    Args:
        values: {attribute: its values}.
        trunk: a network of timm that gives feature maps, such as "convnext_atto" or "resnet10t".
        trunk_options: of that network, such as {depths: [1, 1, 2, 1], dims: [32, 64, 128, 192]}.
        image_size: edge of a square, or [height, width], that pictures are resized to.

    `temperatures` [A], one for each attribute, are 1 until `calibrate`.
    """

    def __init__(
        self,
        values: dict[str, list[str]],
        trunk: str = "convnext_atto",
        trunk_options: dict[str, Any] | None = None,
        image_size: Size = 64,
    ) -> None:
        super().__init__()
        self.values = checked_values(values)
        self.image_size = height_and_width(image_size)
        self.config: dict[str, Any] = {"values": self.values, "trunk": trunk, "trunk_options": trunk_options or {}}
        self.config["image_size"] = as_stored(image_size)
        self.trunk = _trunk(trunk, self.config["trunk_options"])
        width = _features(self.trunk, trunk, self.image_size)
        self.heads = nn.ModuleDict({name: nn.Linear(width, len(several)) for name, several in self.values.items()})
        self.temperatures: Tensor
        self.register_buffer("temperatures", torch.ones(len(self.values)))

    def logits(self, images: Tensor) -> dict[str, Tensor]:
        """{attribute: [B, its values]} of images [B, 3, H, W] in [-1, 1] of any size, before calibration."""
        features = self.trunk(resized(images, self.image_size)).flatten(1)
        return {name: head(features) for name, head in self.heads.items()}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """{attribute: calibrated log-probabilities [B, its values]} of images [B, 3, H, W] in [-1, 1]."""
        logits = self.logits(images)
        return {
            name: (values.float() / temperature).log_softmax(1)
            for (name, values), temperature in zip(logits.items(), self.temperatures, strict=True)
        }

    @torch.no_grad()
    def calibrate(self, logits: Mapping[str, Tensor], labels: Mapping[str, Tensor]) -> None:
        """Set the temperatures by held-out logits [N, values] and labels int64 [N], -1 where nothing is said."""
        for place, name in enumerate(self.values):
            told = labels[name] >= 0
            if told.any():
                self.temperatures[place] = fitted_temperature(logits[name][told], labels[name][told])

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors, in the type of the weights."""
        from safetensors.torch import save

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        content = save({n: v.contiguous().cpu() for n, v in self.state_dict().items()})
        (folder / "model.safetensors").write_bytes(content)  # save_file would hide it from other users
        (folder / "config.json").write_text(json.dumps(self.config, indent=1) + "\n")


def checked_values(values: Any) -> dict[str, list[str]]:
    """{attribute: its values}, as text; ValueError in one line for what a config or a file gives instead."""
    heads = nn.ModuleDict()  # names its parts by attributes
    if not isinstance(values, Mapping) or not values:
        raise ValueError(f"values={one_line(repr(values), 80)}: give {{attribute: [its values]}}")
    for name, several in values.items():
        if not isinstance(name, str) or not name or "." in name or hasattr(heads, name):
            raise ValueError(f"values.{one_line(str(name), 40)}: no attribute can have this name; choose another")
        told = [str(value) for value in several] if isinstance(several, list | tuple) else []
        if len(told) < 2 or len(set(told)) < len(told):
            given = one_line(repr(several), 80)
            raise ValueError(f"values.{name}={given}: give every attribute two values or more, each once")
    return {name: [str(value) for value in several] for name, several in values.items()}


def _trunk(name: str, options: Mapping[str, Any]) -> nn.Module:
    """A config may come from anywhere: it names a network and its sizes, and nothing that timm would load."""
    import timm

    if not isinstance(options, Mapping):
        raise ValueError(
            f"trunk_options={one_line(repr(options), 80)}: give sizes by name, such as {{depths: [1, 1, 2, 1]}}"
        )
    own = [*inspect.signature(timm.create_model).parameters, "features_only", "in_chans"]
    if not isinstance(name, str) or not timm.is_model(name):
        near = difflib.get_close_matches(str(name), timm.list_models(), 1)
        raise ValueError(f"trunk {name!r} is no network of timm{f'; the nearest is {near[0]!r}' if near else ''}")
    if loading := [key for key in map(str, options) if key in own or key.startswith("pretrained")]:
        raise ValueError(f"trunk_options.{loading[0]} is nothing that a reader takes; give sizes such as depths, dims")
    try:
        return timm.create_model(name, pretrained=False, num_classes=0, global_pool="", **options)
    except Exception as error:  # timm asserts, looks up names, passes options on
        raise ValueError(f"timm cannot build the trunk {name!r}: {one_line(error, 160)}") from None


def _features(trunk: nn.Module, name: str, size: tuple[int, int]) -> int:
    """How many numbers the trunk makes of a picture of this size; ValueError in one line where it takes none."""
    try:
        with torch.no_grad():
            count = trunk.eval()(torch.zeros(1, 3, *size)).numel()
    except Exception as error:  # what a network asserts of sizes, and what no memory holds
        raise ValueError(
            f"the trunk {name!r} cannot read pictures of {as_text(size)}: {one_line(error, 160)}"
        ) from None
    trunk.train()
    return count


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images [B, 3, H, W] of another size: pixels are repeated where that is all it takes, as drawings of pixels need.

    Otherwise bilinear and antialiased.
    """
    (height, width), (tall, wide) = images.shape[-2:], size
    if (height, width) == size:
        return images
    if tall % height == wide % width == 0:
        return images.repeat_interleave(tall // height, -2).repeat_interleave(wide // width, -1)
    return F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)


def load_attribute_reader(source: str | Path) -> AttributeReader:
    """The reader of a folder or hub id that `save_pretrained` wrote; frozen, in eval mode, float32 on the CPU.

    ValueError in one line.
    """
    config, weights = (weights_file(source, name) for name in ("config.json", "model.safetensors"))
    content = read_json(config)
    if not isinstance(content, dict) or not {"values", "trunk", "trunk_options", "image_size"} == content.keys():
        raise ValueError(f"{config} describes no attribute reader: it needs values, trunk, trunk_options, image_size")
    reader = AttributeReader(**content)
    state = {name: value.float() for name, value in read_weights(weights).items()}
    check_keys(state, reader.state_dict(), weights)
    reader.load_state_dict(state)
    finite = all(value.isfinite().all() for value in reader.state_dict().values())
    if not finite or not (reader.temperatures > 0).all():
        raise ValueError(f"{weights} holds values that are not finite, or temperatures of 0 or less; export it again")
    return reader.eval().requires_grad_(False)


def fitted_temperature(logits: Tensor, labels: Tensor, least: float = 0.05, most: float = 20.0) -> float:
    """The T that makes softmax(logits / T) most likely, by golden section; Guo et al. 2017, section 4.2.

    logits [N, K], labels int64 [N]. A share of 1 / (N + 2) of every label is given to the other values (Platt 1999,
    section 2.2): where none of few answers is wrong, the certainty stays that of so few. The negative log-likelihood
    has one minimum in 1 / T, where it is convex.
    """
    doubt, ratio, (rows, several) = 1 / (len(labels) + 2), (5**0.5 - 1) / 2, logits.shape
    targets = torch.full((rows, several), doubt / (several - 1), dtype=torch.float64)
    targets[torch.arange(rows), labels] = 1 - doubt
    logits = logits.double()

    def loss(inverse: float) -> float:
        return F.cross_entropy(logits * inverse, targets).item()

    low, high = 1 / most, 1 / least
    while high - low > 1e-4 * low:
        inner, outer = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, outer) if loss(inner) <= loss(outer) else (inner, high)
    return 2 / (low + high)
