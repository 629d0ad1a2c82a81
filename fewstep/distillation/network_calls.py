"""Losses that ask networks in turn, computed side by side: many calls become a few larger ones.

A loss is a generator of `Call`s. It is sent the answer to each, and returns its value.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from fewstep.diffusion.guidance import Condition, Denoiser

Role = Literal["teacher", "forward", "reverse", "target"]  # target: the moving average of a student


class Call(NamedTuple):
    """A question to one of the networks; its answer is [B, ...]."""

    network: Role
    x: Tensor  # [B, ...]
    t: Tensor  # [B]
    guidance_scale: Tensor  # [B]
    condition: Condition  # each [B, ...]
    gradient: bool = False


Networks = Callable[[Sequence[Call]], Sequence[Tensor]]  # the answers to calls of different networks, in their order
Losses = Generator[Call, Tensor, Tensor]  # asks, is sent the answers, returns [B]


def absent(x: Tensor, t: Tensor, guidance_scale: Tensor, condition: Condition) -> Tensor:
    """A denoiser that no loss may ask."""
    raise ValueError("a loss asks a network that this distillation does not have")


@dataclass(frozen=True)
class SeparateNetworks:
    """Networks of several denoisers, called one after the other."""

    teacher: Denoiser
    forward: Denoiser = absent
    reverse: Denoiser = absent
    target: Denoiser = absent

    def __call__(self, calls: Sequence[Call]) -> list[Tensor]:
        return [getattr(self, call.network)(call.x, call.t, call.guidance_scale, call.condition) for call in calls]


def side_by_side(networks: Networks, terms: Sequence[Losses]) -> list[Tensor]:
    """What the terms return. In every round all calls without gradient are put together; if there are none, all with.

    So whatever needs no gradient comes first, and the last round is the one that is differentiated.
    """
    results: list[Tensor | None] = [None] * len(terms)
    waiting = {index: next(term) for index, term in enumerate(terms)}
    while waiting:
        asked = {index: call for index, call in waiting.items() if not call.gradient} or dict(waiting)
        gradient = torch.is_grad_enabled() and all(call.gradient for call in asked.values())
        with torch.set_grad_enabled(gradient):
            answers = networks(list(asked.values()))
        for index, answer in zip(asked, answers, strict=True):
            try:
                waiting[index] = terms[index].send(answer)
            except StopIteration as stop:
                results[index] = stop.value
                del waiting[index]
    return [result for result in results if result is not None]
