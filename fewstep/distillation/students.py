"""The two students of a frozen network: adapters on it, or copies of it; and their files."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.backbones import Adapters, DiffusersDenoiser, LatentDiffusion, load_guided_network, save_guided_network
from fewstep.choices import require_choice, require_range
from fewstep.diffusion.guidance import Condition, Denoiser
from fewstep.distillation.network_calls import Call, SeparateNetworks

MOST_RANK = 1 << 16  # wider than any layer
ADAPTERS = {"teacher": None, "forward": "forward", "reverse": "reverse"}  # None is the network alone


class SharedBase:
    """`Networks` of consistency.py that answer all calls in one pass; teacher, forward and reverse are its denoisers.

    denoiser: of the network that `adapters` were put into. A third of the weights of three networks.
    """

    def __init__(self, denoiser: Denoiser, adapters: Adapters) -> None:
        self.denoiser, self.adapters = denoiser, adapters
        self.teacher, self.forward, self.reverse = (partial(self._alone, ADAPTERS[role]) for role in ADAPTERS)

    def _alone(self, adapter: str | None, x: Tensor, t: Tensor, guidance_scale: Tensor, condition: Condition) -> Tensor:
        with self.adapters.rows([(adapter, len(x))]):
            return self.denoiser(x, t, guidance_scale, condition)

    def __call__(self, calls: Sequence[Call]) -> list[Tensor]:
        order = sorted(range(len(calls)), key=lambda index: list(ADAPTERS).index(calls[index].network))
        grouped = [calls[index] for index in order]  # rows of one adapter side by side
        sizes = [len(call.x) for call in grouped]
        with self.adapters.rows([(ADAPTERS[call.network], size) for call, size in zip(grouped, sizes, strict=True)]):
            output = self.denoiser(
                torch.cat([call.x for call in grouped]),
                torch.cat([call.t for call in grouped]),
                torch.cat([call.guidance_scale for call in grouped]),
                {key: torch.cat([call.condition[key] for call in grouped]) for key in grouped[0].condition},
            )
        answers = dict(zip(order, output.split(sizes), strict=True))
        return [answers[index] for index in range(len(calls))]


@dataclass(frozen=True)
class Students:
    """networks: what losses call. weights: what is trained and stored, nothing else. settings: what `load` needs."""

    networks: SharedBase | SeparateNetworks
    weights: nn.Module
    settings: dict[str, Any]
    save: Callable[[str | Path], None]


@dataclass(frozen=True)
class StudentOptions:
    """Which students a run trains.

    kind: "lora", two adapters of this rank and alpha on one frozen base, or "full", two more networks. targets: the
    layers with adapters; None for those of the paper. merged: see Adapters, for small networks.
    """

    kind: str = "lora"
    rank: int = 64
    alpha: float = 8.0
    targets: Sequence[str] | None = None
    merged: bool = False

    def __post_init__(self) -> None:
        require_choice("students.kind", self.kind, ("lora", "full"))
        require_range("students.rank", self.rank, 1, MOST_RANK)
        require_range("students.alpha", self.alpha, above=True)

    def of(self, model: LatentDiffusion) -> Students:
        """The students of this model, whose network adapters change in place."""
        if self.kind == "full":
            return full_students(model)
        return adapter_students(model, self.rank, self.alpha, self.targets, self.merged)


def adapter_students(
    model: LatentDiffusion,
    rank: int = 64,
    alpha: float = 8.0,
    targets: Sequence[str] | None = None,
    merged: bool = False,
) -> Students:
    """Two LoRA adapters in the model's network, which is changed in place and stays frozen; see Adapters."""
    adapters = Adapters(model.network, ("forward", "reverse"), rank, alpha, targets, merged)
    trained = {name.replace(".", "/"): p for name, p in model.network.named_parameters() if p.requires_grad}
    networks = SharedBase(DiffusersDenoiser(model.network, model.parametrization.schedule), adapters)
    settings = {"kind": "lora", "rank": rank, "alpha": alpha, "targets": targets and list(targets)}
    return Students(networks, nn.ParameterDict(trained), settings, adapters.save)


def full_students(model: LatentDiffusion) -> Students:
    """Two whole copies of the model's network, which is the teacher."""
    copies = {role: copy.deepcopy(model.network).requires_grad_(True).train() for role in ("forward", "reverse")}
    networks = _separate(model, copies)
    weights = nn.ModuleDict({f"{role}_student": network for role, network in copies.items()})  # `forward` is taken
    return Students(networks, weights, {"kind": "full"}, partial(_save_copies, model, copies))


def load_students(
    model: LatentDiffusion, settings: Mapping[str, Any], source: str | Path | Mapping[str, str | Path]
) -> SharedBase | SeparateNetworks:
    """Frozen students of this model from what Students.save wrote; of its settings.

    source: its folder, or for adapters {"forward": file, "reverse": file} of diffusers, peft, kohya or iCD's authors.
    """
    if settings["kind"] == "lora":
        merged = next(model.network.parameters()).dtype == torch.float32
        students = adapter_students(model, settings["rank"], settings["alpha"], settings.get("targets"), merged)
        assert isinstance(students.networks, SharedBase)
        students.networks.adapters.load(source)
        students.weights.requires_grad_(False)
        return students.networks
    if settings["kind"] != "full" or isinstance(source, Mapping):
        raise ValueError(f"students of kind {settings['kind']!r} cannot be loaded; choose lora, or full and a folder")
    device = next(model.network.parameters()).device
    return _separate(
        model, {role: load_guided_network(Path(source, role))[0].to(device) for role in ("forward", "reverse")}
    )


def _separate(model: LatentDiffusion, students: Mapping[str, nn.Module]) -> SeparateNetworks:
    denoiser = partial(DiffusersDenoiser, schedule=model.parametrization.schedule)
    return SeparateNetworks(denoiser(model.network), denoiser(students["forward"]), denoiser(students["reverse"]))


def _save_copies(model: LatentDiffusion, students: Mapping[str, nn.Module], folder: str | Path) -> None:
    for role, network in students.items():
        save_guided_network(Path(folder, role), network, model.guidance_scales or (1.0,))
