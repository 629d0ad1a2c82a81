"""Where an inversion loses what it loses: the error of each segment on its own, and of the chain up to there.

    python benchmarks/icd/segments.py --export G=runs/icd_G/export [--num 64]

Latent MSE. "undone" is a segment encoded and decoded again, from the encoder's own state or from noised data; "chain"
is the decoder's state at the segment's lower end against the encoder's there, at the lowest against the data.
"""

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.icd.evaluation_set import read_pictures, some_of
from fewstep.diffusion.solvers import jumps, time_like
from fewstep.icd.inversion import encode
from fewstep.icd.pair import InvertibleConsistency
from fewstep.rng import PerSampleRng


@torch.no_grad()
def table(export: str, data: str, split: str, num: int) -> list[str]:
    """Rows in markdown, from noise to data."""
    pair = InvertibleConsistency.load(export)
    prompts, size = pair.model.prompts, pair.model.image_size
    pictures = some_of(read_pictures(data, split, prompts.tokenizer, prompts.length, size), num)
    clean, condition = pair.model.latents.encode(pictures.image), pair.model.prompts(pictures.caption)
    noise = PerSampleRng(0, pictures.key).normal(*clean.shape[1:])
    models, ends = pair.model.parametrization, pair.boundaries
    up = encode(pair.forward, models, ends, clean, noise, condition)
    down = [up[-1], *jumps(pair.reverse, models, up[-1], ends.decode_times, condition)]

    def undone(state: Tensor, low: float, high: float, to: float | None = None) -> float:
        """The error after a jump to `high` and another one back, to `low` or further."""
        encoded = list(jumps(pair.forward, models, state, (low, high), condition))[-1]
        decoded = list(jumps(pair.reverse, models, encoded, (high, low if to is None else to), condition))[-1]
        return mse(decoded, state if to is None else clean)

    rows = []
    for number in reversed(range(len(up) - 1)):
        low, high = ends.encode_times[number : number + 2]
        noised = models.add_noise(clean, noise, time_like(clean, low))
        chain = mse(down[-1 - number], up[number]) if number else mse(down[-1], clean)
        errors = (undone(up[number], low, high), undone(noised, low, high), chain)
        rows.append(f"| {low:g} to {high:g} | " + " | ".join(f"{error:.4f}" for error in errors) + " |")
    low, high = ends.encode_times[:2]
    rows.append(f"| {low:g} to {high:g}, decoded to the data | {undone(up[0], low, high, to=0.0):.4f} | | |")
    return rows


def mse(a: Tensor, b: Tensor) -> float:
    return (a - b).square().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--export", nargs="+", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--data", default="data/emoji64")
    parser.add_argument("--split", default="test")
    parser.add_argument("--num", type=int, default=64)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name, _, folder in (export.partition("=") for export in options.export):
        print(f"\n| {name} | undone, own state | undone, noised data | chain |\n|---|--:|--:|--:|")
        print("\n".join(table(folder, options.data, options.split, options.num)))


if __name__ == "__main__":
    main()
