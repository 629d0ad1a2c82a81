"""The bottleneck of a UNet as a space of meaning: what it says at x_t, and the answer where something is added to it.

Kwon et al. 2023 (arXiv 2210.10960), who call it h-space.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from fewstep.fast_edit.edit_base import EditBase

Seen = Callable[[Tensor, Tensor], Tensor | None]  # h [B, C, h, w], embedding of time [B, D] -> what is added to h


def answer_with_h(base: EditBase, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(answer [B, ...] to x_t, h [B, C, h, w], the network's embedding of its time [B, D])."""
    seen: list[Tensor] = []
    with _bottleneck(base.network, lambda h, embedding: seen.extend((h, embedding))):
        answer = base.predict(x, t)
    h, embedding = seen
    return answer, h, embedding


def answer_at(base: EditBase, x: Tensor, t: Tensor, added: Tensor) -> Tensor:
    """The answer [B, ...] to x_t where `added` [B, C, h, w] is added to h; gradients reach it."""
    with _bottleneck(base.network, lambda h, embedding: added):
        return base.predict(x, t)


@contextmanager
def _bottleneck(network: nn.Module, see: Seen) -> Iterator[None]:
    middle = getattr(network, "mid_block", None)
    if middle is None:
        raise ValueError(f"a {type(network).__name__} has no bottleneck: h-space needs a UNet with a mid_block")

    def hook(_: nn.Module, inputs: tuple[Any, ...], h: Tensor) -> Tensor | None:
        added = see(h, inputs[1])
        return None if added is None else h + added

    handle = middle.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
