"""Contrastive learning of image and text embeddings, and how well they find one another.

Radford et al. 2021 (CLIP), Figure 3: the symmetric loss. Yang et al. 2022 (UniCL): several positives in a row.
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor


def contrastive_loss(
    image_features: Tensor,
    text_features: Tensor,
    scale: Tensor | float,
    labels: Tensor | None = None,
    across_ranks: bool = False,
) -> Tensor:
    """Symmetric InfoNCE of each pair, [B] in nats: the mean of image -> text and text -> image.

    image_features, text_features: unit vectors [B, D], row i of both is a pair. scale: inverse temperature.
    labels: int64 [B]; pairs with the same label are positives of one another. The target of a row is then uniform over
    its n positives and the least loss is log(n), not 0. None: only the pair itself is positive, n = 1. Where equal
    labels mean equal text features the two differ in single rows, but neither in the sum nor in its gradient.
    across_ranks: the rows of all ranks, which must be equally many, are candidates, and gradients flow back to them:
    the mean over ranks of loss and of gradient is that of one process with all rows.
    """
    if labels is None:
        first = _rank() * len(image_features) if across_ranks else 0
        labels = first + torch.arange(len(image_features), device=image_features.device)
    collect = gather if across_ranks else _as_it_is
    same = (labels[:, None] == collect(labels)[None]).float()  # [B, world * B]
    target = same / same.sum(1, keepdim=True)
    with torch.autocast(image_features.device.type, enabled=False):  # logits near 100 have steps of 0.5 in bfloat16
        image_features, text_features = image_features.float(), text_features.float()
        to_text = _cross_entropy(scale * image_features @ collect(text_features).T, target)
        to_image = _cross_entropy(scale * text_features @ collect(image_features).T, target)
    return (to_text + to_image) / 2


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Logits [B, N] and a distribution per row -> [B]."""
    return -(target * logits.log_softmax(1)).sum(1)


def labels_of(values: Sequence[Any], device: torch.device | str = "cpu") -> Tensor:
    """int64 [B]: values that read the same, and in practice only these, have equal labels, in every process."""
    digests = [blake2b(str(value).encode(), digest_size=8).digest() for value in values]
    return torch.tensor([int.from_bytes(digest, "little", signed=True) for digest in digests], device=device)


def gather(rows: Tensor) -> Tensor:
    """[B, ...] of every rank -> [world * B, ...] on every rank, in the order of ranks; gradients go back to them."""
    return _Gather.apply(rows) if _world() > 1 else rows


class _Gather(torch.autograd.Function):
    """torch.distributed.nn has it, too, but takes a scatter for every rank to send gradients back on CPUs."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(_world())]
        torch.distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.contiguous().clone()
        torch.distributed.all_reduce(grad)  # what every rank's loss makes of every row
        return grad.chunk(_world())[_rank()]


def _as_it_is(rows: Tensor) -> Tensor:
    return rows


def _world() -> int:
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def _rank() -> int:
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def retrieval_ranks(queries: Tensor, candidates: Tensor, labels: Tensor, chunk: int = 1024) -> Tensor:
    """How many wrong candidates come before the best right one, int64 [N] in 0..N-1; recall at k is mean(ranks < k).

    queries, candidates: unit vectors [N, D], row i of both is a pair. labels: int64 [N], right candidates are those
    with the label of the query. A tie counts as lost: features that are all equal find nothing.
    """
    ranks = []
    for start in range(0, len(queries), chunk):
        similarity = queries[start : start + chunk].double() @ candidates.double().T  # [chunk, N]
        right = labels[start : start + chunk, None] == labels[None]
        best = similarity.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
        ranks.append(((similarity >= best) & ~right).sum(1))
    return torch.cat(ranks)
