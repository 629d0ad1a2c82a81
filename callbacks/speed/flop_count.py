"""The floating point operations of what runs between two calls."""

import os

import torch
from torch import nn
from torch.autograd.profiler import profile
from torch.autograd.profiler_util import FunctionEvent

from callbacks.speed.operator_flops import operator_flops


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
