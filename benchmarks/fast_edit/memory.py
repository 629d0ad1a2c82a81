"""Bytes kept for the backward pass, by gradient mode: what a graph through all steps of decoding costs.

    python benchmarks/fast_edit/memory.py assets/ddpm_avatars

Bytes of the activations that autograd keeps until the backward pass, each storage once, without weights. "with the
loss" adds those of the CLIP in four views, which are the same in all modes.
"""

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.fast_edit.edit_losses import loss_of
from fewstep.fast_edit.direction.clips import load_edit_clip
from fewstep.fast_edit.edit_base import load_base
from fewstep.fast_edit.encoding import Encoder, Encoding
from fewstep.fast_edit.estimates import GradientMode, estimates
from fewstep.fast_edit.tuned import Tuned
from fewstep.fast_edit.tuning import TuningOptions

MODES = {
    "one_step": GradientMode(),
    "random_t": GradientMode("random_t"),
    "last_k": GradientMode("last_k"),
    "eff": GradientMode("eff"),
    "full": GradientMode("full"),
    "full, checkpointing": GradientMode("full", checkpointing=True),
}


def saved_bytes(run: Callable[[], object], weights: Iterable[nn.Parameter] = ()) -> int:
    """Of what `run` makes autograd keep. run: returns what holds the graph. weights: those that lie there anyway."""
    known = {weight.untyped_storage().data_ptr() for weight in weights}
    kept: dict[int, Tensor] = {}  # holds them, so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in known:
            kept[place] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        held = run()
    total = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    del held
    return total


def bytes_of_mode(
    tuned: Tuned,
    pictures: Tensor,
    how: GradientMode,
    t0: float,
    loss: Callable[[Tensor], Tensor] | None = None,
    of_loss: Iterable[nn.Parameter] = (),
) -> int:
    """Of the first update, for pictures [B, 3, H, W] in [-1, 1]; those of "eff" have one step each.

    of_loss: the weights of the loss's networks.
    """
    encoder = Encoder(tuned.base, Encoding(t0))
    weights = [*tuned.base.network.parameters(), *tuned.parameters("edit"), *of_loss]

    def run() -> Tensor:
        estimate, _ = next(estimates(tuned, "edit", pictures, encoder, None, how))
        return estimate if loss is None else loss(estimate)

    return saved_bytes(run, weights)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("--clip", default="assets/clip_avatars")
    parser.add_argument("--edit", default="avatar_glasses")
    parser.add_argument("--batch", type=int, default=5)
    parser.add_argument("--t0", type=float, default=0.3)
    parser.add_argument("--weights", choices=("lora", "full"), default="lora")
    options = parser.parse_args()
    base = load_base(options.base)
    pictures = torch.rand(options.batch, 3, *base.sample_size) * 2 - 1
    clip = load_edit_clip(options.clip, max(1, 64 // base.sample_size[0]))
    loss = loss_of(clip, options.edit)
    features = loss.reference(pictures)
    with_loss = lambda made: loss(made, pictures, features, 0).total.mean()  # noqa: E731
    print("| mode | MiB | of one_step | MiB with the loss | of one_step |\n|---|--:|--:|--:|--:|")
    ones: list[int] = []
    tuned = TuningOptions(options.weights, merged=True).of(base, ["edit"])
    for name, how in MODES.items():
        seen = [(None, ()), (with_loss, list(clip.parameters()))]
        found = [bytes_of_mode(tuned, pictures, how, options.t0, *each) for each in seen]
        ones = ones or found
        cells = " | ".join(f"{own / 2**20:.1f} | {own / one:.2f}" for own, one in zip(found, ones, strict=True))
        print(f"| {name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
