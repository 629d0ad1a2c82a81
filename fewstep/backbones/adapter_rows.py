"""Which rows of a batch a LoRA layer treats with which adapter: contiguous blocks, each with one adapter or none."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

Block = tuple[str | None, int]  # an adapter's name, or None for the bare base, and how many rows have it


class RowBlocks:
    """The blocks in force, and what obeys them: `treat` or `merge` on LoRA layers, `keep` on the whole network.

    blocks: None gives every row to the bare base. One block for all rows costs no slicing.
    """

    def __init__(self) -> None:
        self.blocks: tuple[Block, ...] | None = None
        self.checkpointed: list[Any] = []  # the modules of diffusers that can recompute their activations

    @contextmanager
    def use(self, blocks: Sequence[Block] | None) -> Iterator[None]:
        """Put other blocks in force for a while."""
        before, self.blocks = self.blocks, None if blocks is None else tuple(blocks)
        try:
            yield
        finally:
            self.blocks = before

    def treat(self, layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        """Forward hook of a peft LoRA layer that computes its base only: add each block's adapter, output [B, ...].

        peft's own mixed batches (`adapter_names`, Bossan 2024) copy rows by index; contiguous blocks need no copy.
        """
        if self.blocks is None:
            return None
        x, sizes = inputs[0], [size for _, size in self.blocks]
        _check_rows(sizes, x)
        if not torch.is_grad_enabled():
            for (name, _), rows, result in zip(self.blocks, x.split(sizes), output.split(sizes), strict=True):
                if name is not None:
                    result += difference(layer, name, rows).to(result)
            return output
        if len(sizes) == 1:
            name = self.blocks[0][0]
            return None if name is None else output + difference(layer, name, x).to(output)
        return torch.cat(
            [
                result if name is None else result + difference(layer, name, rows).to(result)
                for (name, _), rows, result in zip(self.blocks, x.split(sizes), output.split(sizes), strict=True)
            ]
        )

    def merge(self, layer: Any, x: Tensor) -> Tensor:
        """Stands for the forward method of a peft LoRA layer: each block by one layer of weight W + (alpha / rank) B A.

        What it adds is that of `treat`, for the price of a plain layer and of the product B A; of the plain layer alone
        where `keep_merged` has been called.
        """
        blocks: tuple[Block, ...] = ((None, len(x)),) if self.blocks is None else self.blocks
        sizes = [size for _, size in blocks]
        _check_rows(sizes, x)
        answers = [
            layer.base_layer(rows)
            if name is None
            else functional_call(layer.base_layer, {"weight": _kept(layer, name)}, (rows,))
            for (name, _), rows in zip(blocks, (x,) if len(sizes) == 1 else x.split(sizes), strict=True)
        ]
        return answers[0] if len(answers) == 1 else torch.cat(answers)

    def keep(self, network: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Forward pre-hook of the network: let gradient checkpointing recompute with the blocks of its forward pass.

        Without it a recomputation, which happens in the backward pass, would see whatever is in force by then.
        """
        for module in self.checkpointed:
            if module.gradient_checkpointing and not isinstance(module._gradient_checkpointing_func, _KeptBlocks):
                module._gradient_checkpointing_func = _KeptBlocks(module._gradient_checkpointing_func, self)


class _KeptBlocks:
    """A checkpoint function as diffusers calls it, (module, *inputs) -> outputs."""

    def __init__(self, checkpoint: Callable[..., Any], rows: RowBlocks) -> None:
        self.checkpoint, self.rows = checkpoint, rows

    def __call__(self, module: Callable[..., Any], *inputs: Any) -> Any:
        blocks = self.rows.blocks

        def run(*same_inputs: Any) -> Any:
            with self.rows.use(blocks):
                return module(*same_inputs)

        return self.checkpoint(run, *inputs)


def _check_rows(sizes: Sequence[int], x: Tensor) -> None:
    if len(x) != sum(sizes):
        raise ValueError(f"rows() tells of {sum(sizes)} rows, but the network was called with a batch of {len(x)}")


def difference(layer: Any, name: str, x: Tensor) -> Tensor:
    """What an adapter adds to a layer's output: (alpha / rank) B A x (Hu et al. 2021, section 4.1)."""
    down, up = layer.lora_A[name], layer.lora_B[name]
    if not torch.is_autocast_enabled(x.device.type):  # autocast chooses the dtype itself
        x = x.to(down.weight.dtype)
    return up(down(x) * layer.scaling[name])  # scaled where it is narrow


def merged_weight(layer: Any, name: str) -> Tensor:
    """W + (alpha / rank) B A, in float32. One matrix product: B of a convolution is 1 x 1 (peft's own is a conv2d)."""
    down, up, weight = (part.float() for part in (layer.lora_A[name].weight, layer.lora_B[name].weight, _base(layer)))
    product = torch.addmm(weight.flatten(1), up.flatten(1), down.flatten(1), alpha=layer.scaling[name])
    return product.view_as(weight)


@torch.no_grad()
def keep_merged(layer: Any, name: str) -> None:
    """Merge an adapter into a weight of its own, rounded once to the dtype of W: as a buffer that nothing stores."""
    layer.register_buffer(f"merged_{name}", merged_weight(layer, name).to(_base(layer).dtype), persistent=False)


def _kept(layer: Any, name: str) -> Tensor:
    kept: Tensor | None = getattr(layer, f"merged_{name}", None)
    return merged_weight(layer, name).to(_base(layer).dtype) if kept is None else kept


def _base(layer: Any) -> Tensor:
    weight: Tensor = layer.base_layer.weight
    return weight
