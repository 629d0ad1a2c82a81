"""Floating point operations of torch's operators from the shapes of their inputs."""

import math
from collections.abc import Sequence
from typing import Any

MATRIX_PRODUCTS = {"mm": 0, "addmm": 1, "_addmm_activation": 1, "bmm": 0, "baddbmm": 1, "_scaled_mm": 0}  # first factor


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
