"""The students of a frozen network, two or one: adapters on it, or copies of it; and their files."""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from fewstep.backbones import (
    Adapters,
    Control,
    DiffusersDenoiser,
    LatentDiffusion,
    copied_to,
    has_guidance_embedding,
    load_guided_network,
    save_guided_network,
)
from fewstep.backbones.guided_networks import load_denoising_network
from fewstep.choices import require_choice, require_range
from fewstep.diffusion.guidance import Denoiser
from fewstep.diffusion.schedules import Schedule
from fewstep.distillation.network_calls import Role, SeparateNetworks, absent
from fewstep.distillation.shared_base import SharedBase

MOST_RANK = 1 << 16  # wider than any layer


@dataclass(frozen=True)
class Students:
    """networks: what losses call. weights: what is trained and stored, nothing else. settings: what `load` needs.

    averaged: tell the parameters of target and student, where a run keeps a moving average of the student as target;
        asked each time, as a sharded training replaces them.
    """

    networks: SharedBase | SeparateNetworks
    weights: nn.Module
    settings: dict[str, Any]
    save: Callable[[str | Path], None]
    averaged: tuple[Callable[[], Iterable[nn.Parameter]], Callable[[], Iterable[nn.Parameter]]] | None = None

    @torch.no_grad()
    def move_target(self, decay: float) -> None:
        """target <- decay target + (1 - decay) student."""
        if self.averaged is not None:
            target, student = ([p.detach() for p in side()] for side in self.averaged)
            get_ema_multi_avg_fn(decay)(target, student, None)


@dataclass(frozen=True)
class StudentOptions:
    """Which students a run trains.

    kind: "lora", adapters of this rank and alpha on one frozen base, or "full", more networks. targets: the layers with
    adapters; None for those of the paper (iCD, appendix A). merged: see Adapters, for small networks.
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

    def decoder_of(self, model: LatentDiffusion, averaged: bool) -> Students:
        """One student that decodes, the role "reverse"; averaged: and its moving average, the role "target"."""
        if self.kind == "full":
            return full_student(model, averaged)
        return adapter_student(model, self.rank, self.alpha, self.targets, self.merged, averaged)


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
    networks = SharedBase(DiffusersDenoiser(model.network, model.parametrization.schedule, model.control), adapters)
    settings = {"kind": "lora", "rank": rank, "alpha": alpha, "targets": targets and list(targets)}
    return Students(networks, nn.ParameterDict(trained), settings, adapters.save)


def adapter_student(
    model: LatentDiffusion,
    rank: int = 64,
    alpha: float = 8.0,
    targets: Sequence[str] | None = None,
    merged: bool = False,
    averaged: bool = False,
) -> Students:
    """One LoRA adapter in the model's network, named "student", and one for its average; see adapter_students."""
    names = ("student", "target") if averaged else ("student",)
    adapters = Adapters(model.network, names, rank, alpha, targets, merged)
    roles: dict[Role, str] = {"reverse": "student"}
    moving = None
    if averaged:
        roles["target"] = "target"
        adapters.load_state("target", adapters.state("student"))
        moving = partial(adapters.parameters, "target"), partial(adapters.parameters, "student")
    trained = {name.replace(".", "/"): p for name, p in model.network.named_parameters() if p.requires_grad}
    if averaged:
        for parameter in adapters.parameters("target"):
            parameter.requires_grad_(False)
    null = None if has_guidance_embedding(model.network) else model.prompts.null_condition()
    networks = SharedBase(
        DiffusersDenoiser(model.network, model.parametrization.schedule, model.control), adapters, roles, null
    )
    settings = {"kind": "lora", "rank": rank, "alpha": alpha, "targets": targets and list(targets)}
    return Students(networks, nn.ParameterDict(trained), settings, partial(adapters.save, names=("student",)), moving)


def full_student(model: LatentDiffusion, averaged: bool = False) -> Students:
    """A whole copy of the model's network, and one more for its average."""
    student = trainable_copy(model.network)
    weights, moving = {"student": student}, None
    follower: Denoiser = absent
    if averaged:
        target = copy.deepcopy(student).requires_grad_(False)
        weights["target"], follower = target, unscaled(target, model.parametrization.schedule)
        moving = target.parameters, student.parameters
    alone = unscaled(student, model.parametrization.schedule)
    networks = SeparateNetworks(model.denoiser(), reverse=alone, target=follower)
    save = partial(_save_copy, model, student)
    return Students(networks, nn.ModuleDict(weights), {"kind": "full"}, save, moving)


def trainable_copy(network: nn.Module) -> nn.Module:
    """In float32: half precision would round small steps away."""
    return copy.deepcopy(network).float().requires_grad_(True).train()


def unscaled(network: nn.Module, schedule: Schedule, control: Control | None = None) -> Denoiser:
    """A denoiser of the network, which passes over the scale where the network has no embedding of it."""
    denoiser = DiffusersDenoiser(network, schedule, control)
    if has_guidance_embedding(network):
        return denoiser
    return lambda x, t, guidance_scale, condition: denoiser.network(x, t, condition)


def full_students(model: LatentDiffusion) -> Students:
    """Two whole copies of the model's network, which is the teacher."""
    copies = {role: trainable_copy(model.network) for role in ("forward", "reverse")}
    networks = _separate(model, copies)
    weights = nn.ModuleDict({f"{role}_student": network for role, network in copies.items()})  # `forward` is taken
    return Students(networks, weights, {"kind": "full"}, partial(_save_copies, model, copies))


def load_students(
    model: LatentDiffusion,
    settings: Mapping[str, Any],
    source: str | Path | Mapping[str, str | Path],
    merged: Sequence[str] = (),
) -> SharedBase | SeparateNetworks:
    """Frozen students of this model from what Students.save wrote; of its settings.

    source: its folder, or for adapters {"forward": file, "reverse": file} of diffusers, peft, kohya or iCD's authors.
    merged: those that are to be merged once, see Adapters.keep_merged.
    """
    if settings["kind"] == "lora":
        narrow = next(model.network.parameters()).dtype == torch.float32
        students = adapter_students(model, settings["rank"], settings["alpha"], settings.get("targets"), narrow)
        assert isinstance(students.networks, SharedBase)
        students.networks.adapters.load(source)
        students.weights.requires_grad_(False)
        if merged:
            students.networks.adapters.keep_merged(merged)
        return students.networks
    if settings["kind"] != "full" or isinstance(source, Mapping):
        raise ValueError(f"students of kind {settings['kind']!r} cannot be loaded; choose lora, or full and a folder")
    device = next(model.network.parameters()).device
    return _separate(
        model, {role: load_guided_network(Path(source, role))[0].to(device) for role in ("forward", "reverse")}
    )


def load_student(model: LatentDiffusion, settings: Mapping[str, Any], folder: str | Path) -> Denoiser:
    """The frozen decoder that `adapter_student` or `full_student` of this model saved; of its settings."""
    if settings["kind"] == "lora":
        student = adapter_student(model, settings["rank"], settings["alpha"], settings.get("targets"))
        assert isinstance(student.networks, SharedBase)
        student.networks.adapters.load(folder)
        student.networks.adapters.keep_merged()
        return student.networks.reverse
    config = dict(model.network.config)  # type: ignore[arg-type]
    network, _ = load_denoising_network(Path(folder, "student"), config, next(model.network.parameters()).dtype)
    device = next(model.network.parameters()).device
    return unscaled(network.to(device), model.parametrization.schedule, model.control)


def _save_copy(model: LatentDiffusion, student: Any, folder: str | Path) -> None:
    if has_guidance_embedding(student):
        save_guided_network(Path(folder, "student"), student, model.guidance_scales or (1.0,))
    else:
        copied_to(student, torch.float32).save_pretrained(str(Path(folder, "student")))


def _separate(model: LatentDiffusion, students: Mapping[str, nn.Module]) -> SeparateNetworks:
    denoiser = partial(DiffusersDenoiser, schedule=model.parametrization.schedule, control=model.control)
    return SeparateNetworks(denoiser(model.network), denoiser(students["forward"]), denoiser(students["reverse"]))


def _save_copies(model: LatentDiffusion, students: Mapping[str, nn.Module], folder: str | Path) -> None:
    for role, network in students.items():
        save_guided_network(Path(folder, role), network, model.guidance_scales or (1.0,))
