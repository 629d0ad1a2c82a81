"""Distances between a prediction and its target, both [B, ...]: one value per sample [B], the mean over its elements.

Half-precision inputs are compared in float32.
"""

from collections.abc import Callable

from torch import Tensor


def pseudo_huber(prediction: Tensor, target: Tensor, c: float = 1e-3) -> Tensor:
    """Mean of sqrt(d^2 + c^2) - c [B]: quadratic for |d| << c, |d| - c beyond (elementwise, as in iCD's code).

    Written as d^2 / (sqrt(d^2 + c^2) + c), which keeps its digits where d is small.
    """
    squared = _difference(prediction, target).square()
    return _mean(squared / ((squared + c * c).sqrt() + c))


def l2(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error [B]."""
    return _mean(_difference(prediction, target).square())


def l1(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error [B]."""
    return _mean(_difference(prediction, target).abs())


DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"l2": l2, "l1": l1, "pseudo_huber": pseudo_huber}


def _difference(prediction: Tensor, target: Tensor) -> Tensor:
    if prediction.shape != target.shape:  # would broadcast, and mean something else
        raise ValueError(f"prediction has shape {list(prediction.shape)}, target {list(target.shape)}; they must agree")
    if prediction.dtype.itemsize < 4:
        prediction = prediction.float()
    return prediction - target


def _mean(values: Tensor) -> Tensor:
    return values.reshape(len(values), -1).mean(1)
