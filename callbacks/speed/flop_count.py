"""The floating point operations of what runs between two calls."""

import math
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.autograd.profiler import profile
from torch.autograd.profiler_util import FunctionEvent

MATRIX_PRODUCTS = {"mm": 0, "addmm": 1, "_addmm_activation": 1, "bmm": 0, "baddbmm": 1, "_scaled_mm": 0}  # first factor


class FlopCount:
    """FLOPs of matrix products, convolutions and attentions, forward and backward, as torch's profiler sees them.

    The profiler only looks on. FlopCounterMode does not: under it torch takes other formulas for some derivatives, and
    the step that is counted would differ in its last bits from the same step of a resumed run.
    What gradient checkpointing computes again is counted again. Compiled modules hide their products: see `countable`.
    """

    def __init__(self) -> None:
        self._profile: profile | None = None

    @staticmethod
    def countable(module: nn.Module) -> bool:
        """Whether no part of it is compiled."""
        return not any(hasattr(m, "_orig_mod") or m._compiled_call_impl is not None for m in module.modules())

    def start(self) -> None:
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it reports on stderr that there is no GPU to look at
        if torch.autograd._profiler_enabled():  # the user's own is at work, and a second would end it
            return
        self._profile = profile(record_shapes=True)
        self._profile.__enter__()

    def stop(self) -> float | None:
        """FLOPs since `start`, None if it did not get to count; also after an exception, so that counting ends."""
        watching, self._profile = self._profile, None
        if watching is None:
            return None
        watching.__exit__(None, None, None)
        counts: dict[FunctionEvent, int] = {}
        for event in watching.function_events or []:
            if flops := operator_flops(event.name, event.input_shapes or [], event.concrete_inputs or []):
                counts[event] = flops
        return float(sum(flops for event, flops in counts.items() if not _inside(event, counts)))


def _inside(event: FunctionEvent, counted: dict[FunctionEvent, int]) -> bool:
    """Whether an operator that is counted has called this one to do its work."""
    while event.cpu_parent is not None:
        event = event.cpu_parent
        if event in counted:
            return True
    return False


def operator_flops(name: str, shapes: Sequence[Sequence[int]], arguments: Sequence[Any]) -> int:
    """FLOPs of one call, a multiplication and an addition counting as two; 0 for what is no matrix product at heart.

    name: as the profiler has it, "aten::addmm"; shapes: of the tensors among the inputs, in their places; arguments:
    the other inputs, in theirs. Known are matrix products, convolutions and fused attention, each also backward.
    Source: the formulas of torch.utils.flop_counter.
    """
    kind = name.removeprefix("aten::").removesuffix("_") if name.startswith("aten::") else ""
    if kind in MATRIX_PRODUCTS:
        left, right = shapes[MATRIX_PRODUCTS[kind] :][:2]
        return 2 * math.prod(left) * right[-1]
    if kind == "convolution":
        return _convolution(shapes[0], shapes[1], *arguments[3:7])
    if kind == "convolution_backward":
        grad, image, weight = shapes[:3]
        transposed, wanted = arguments[7], arguments[10]
        return 2 * grad[0] * math.prod((image if transposed else grad)[2:]) * math.prod(weight) * sum(wanted[:2])
    if kind.startswith("_scaled_dot_product_") and not kind.endswith("_math"):
        backward = kind.endswith("_backward")
        query, key, value = shapes[1:4] if backward else shapes[:3]
        pairs = 2 * math.prod(query[:-1]) * key[-2]
        return pairs * (3 * query[-1] + 2 * value[-1] if backward else query[-1] + value[-1])
    return 0


def _convolution(
    image: Sequence[int],
    weight: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
) -> int:
    """Each output, or input of a transposed convolution, meets the whole kernel of every channel."""
    places = list(image[2:])
    if not transposed:
        sizes = zip(places, weight[2:], stride, padding, dilation, strict=True)
        places = [(size + 2 * p - d * (k - 1) - 1) // s + 1 for size, k, s, p, d in sizes]
    return 2 * image[0] * math.prod(places) * math.prod(weight)
