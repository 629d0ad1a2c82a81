"""A network that reads attributes of a picture: which of its values each attribute has, as log-probabilities."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.choices import require_choice
from fewstep.one_line import one_line
from fewstep.picture_size import Size, as_stored, height_and_width
from fewstep.rewards.saved_networks import load_network, save_network
from fewstep.rewards.trunks import num_tokens, resized, timm_trunk

Values = Mapping[str, Sequence[str]]  # {attribute: its values}
OBJECTIVES = ("softmax", "sigmoid")


class AttributeReader(nn.Module):
    """A trunk of timm with one linear head for each attribute on its last feature map, which keeps places apart.

    Args:
        values: {attribute: its values}.
        trunk: a network of timm that gives feature maps, such as "convnext_atto" or "resnet10t".
        trunk_options: of that network, such as {depths: [1, 1, 2, 1], dims: [32, 64, 128, 192]}.
        image_size: edge of a square, or [height, width], that pictures are resized to.
        objective: "softmax" says which of its values an attribute has, "sigmoid" of each value whether it would be
            right if it was asked for (see `reading_losses`): a judge and a verifier.

    `temperatures` [A], one for each attribute, are 1 until `calibrate`.
    """

    def __init__(
        self,
        values: dict[str, list[str]],
        trunk: str = "convnext_atto",
        trunk_options: dict[str, Any] | None = None,
        image_size: Size = 64,
        objective: str = "softmax",
    ) -> None:
        super().__init__()
        require_choice("objective", objective, OBJECTIVES)
        self.objective = objective
        self.values = checked_values(values)
        self.image_size = height_and_width(image_size)
        self.config: dict[str, Any] = {"values": self.values, "trunk": trunk, "trunk_options": trunk_options or {}}
        self.config |= {"image_size": as_stored(image_size), "objective": objective}
        self.trunk = timm_trunk(trunk, self.config["trunk_options"])
        width = math.prod(num_tokens(self.trunk, trunk, self.image_size))
        self.heads = nn.ModuleDict({name: nn.Linear(width, len(several)) for name, several in self.values.items()})
        self.temperatures: Tensor
        self.register_buffer("temperatures", torch.ones(len(self.values)))

    def logits(self, images: Tensor) -> dict[str, Tensor]:
        """{attribute: [B, its values]} of images [B, 3, H, W] in [-1, 1] of any size, before calibration."""
        features = self.trunk(resized(images, self.image_size)).flatten(1)
        return {name: head(features) for name, head in self.heads.items()}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """{attribute: calibrated log-probabilities [B, its values]} of images [B, 3, H, W] in [-1, 1].

        Those of an attribute add up to 1 under "softmax"; under "sigmoid" each is that of a question of its own.
        """
        logits = self.logits(images)
        scaled = {n: v.float() / t for (n, v), t in zip(logits.items(), self.temperatures, strict=True)}
        return {n: F.logsigmoid(v) if self.objective == "sigmoid" else v.log_softmax(1) for n, v in scaled.items()}

    @torch.no_grad()
    def calibrate(self, logits: Mapping[str, Tensor], labels: Mapping[str, Tensor]) -> None:
        """Set the temperatures by held-out logits [N, values] and labels int64 [N], -1 where nothing is said."""
        for place, name in enumerate(self.values):
            told = labels[name] >= 0
            if told.any():
                self.temperatures[place] = fitted_temperature(logits[name][told], labels[name][told], self.objective)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors, in the type of the weights."""
        save_network(self, self.config, folder)


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


def load_attribute_reader(source: str | Path) -> AttributeReader:
    """The reader of a folder or hub id that `save_pretrained` wrote; frozen, in eval mode, float32 on the CPU.

    ValueError in one line.
    """
    needed = ("values", "trunk", "trunk_options", "image_size")  # the objective of older ones is "softmax"
    reader = load_network(source, "attribute reader", AttributeReader, needed, ("objective",))
    if not (reader.temperatures > 0).all():
        raise ValueError(f"{source} holds temperatures of 0 or less; export it again")
    return reader


def reading_losses(logits: Tensor, labels: Tensor, objective: str, doubt: float = 0.0) -> Tensor:
    """Losses [N] of logits [N, K] for labels int64 [N]; 0 where a label is -1.

    "softmax": cross-entropy. "sigmoid": binary cross-entropy of whether an asked value is right, which is the label
    with probability 1/2 and otherwise one of the others, each alike; its mean over what may be asked. doubt: the
    probability that an answer is not the label's after all.
    """
    others = logits.shape[1] - 1
    right = F.one_hot(labels.clamp(min=0), others + 1).to(logits)
    if objective == "softmax":
        losses = F.cross_entropy(logits, (1 - doubt) * right + doubt / others * (1 - right), reduction="none")
    else:
        asked = right / 2 + (1 - right) / (2 * others)  # the probability of each question
        targets = right + doubt * (1 - 2 * right)
        losses = F.binary_cross_entropy_with_logits(logits, targets, asked, reduction="none").sum(1)
    return losses * (labels >= 0)


def fitted_temperature(
    logits: Tensor, labels: Tensor, objective: str = "softmax", least: float = 0.05, most: float = 20.0
) -> float:
    """The T for which logits / T have the least loss, by golden section; Guo et al. 2017, section 4.2.

    logits [N, K], labels int64 [N]. A share of 1 / (N + 2) of every label is given to the other answers (Platt 1999,
    section 2.2): where none of few answers is wrong, the certainty stays that of so few. The loss has one minimum in
    1 / T, where it is convex.
    """
    logits, doubt, ratio = logits.double(), 1 / (len(labels) + 2), (5**0.5 - 1) / 2

    def loss(inverse: float) -> float:
        return reading_losses(logits * inverse, labels, objective, doubt).mean().item()

    low, high = 1 / most, 1 / least
    while high - low > 1e-4 * low:
        inner, outer = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, outer) if loss(inner) <= loss(outer) else (inner, high)
    return 2 / (low + high)
