"""`bench`: how much faster batches are than one prompt after the other, as the authors' code draws."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fewstep.choices import require_range
from fewstep.collaboration.cascade import BATCHES, Cascade
from fewstep.collaboration.given import Pictures
from fewstep.collaboration.policy import Policy
from fewstep.pixels import to_uint8


def benched(
    cascade: Cascade,
    policy: Policy,
    prompts: Sequence[str],
    seeds: Sequence[str],
    asked: Sequence[Any],
    repeats: int,
    given: Mapping[str, Pictures] | None = None,
) -> str:
    """Both schemes in turns on the same prompts; medians of `repeats` rounds, and their ratio. ValueError: check_bench.

    given: `sources` and `controls`, see Cascade. Pictures are dropped after every few batches, as `draw` writes them.
    """
    check_bench(policy, repeats)
    step = BATCHES * cascade.batch_size
    parts = [slice(start, start + step) for start in range(0, len(prompts), step)]
    ours, theirs = [], []
    for _ in range(repeats + 1):
        seconds = [0.0, 0.0]
        for part in parts:
            places = list(range(*part.indices(len(prompts))))
            shown = {name: pictures[places] for name, pictures in (given or {}).items()}
            some = prompts[part], seeds[part], asked[part], shown
            seconds[0] += _seconds(lambda told, own, what, shown: cascade(told, own, policy, what, **shown), *some)
            seconds[1] += _seconds(lambda *those: one_by_one(cascade, policy, *those), *some)
        ours.append(seconds[0])
        theirs.append(seconds[1])
    batched, single = (statistics.median(times[1:]) / len(prompts) for times in (ours, theirs))  # the first warms up
    told = f"{len(prompts)} prompts, {repeats} rounds: {1 / batched:.2f} pictures a second in batches"
    told += f" of {cascade.batch_size}, {1 / single:.2f} one by one"
    return f"{told}; ratio {single / batched:.2f}"


def check_bench(policy: Policy, repeats: int) -> None:
    """ValueError in one line for no round, or a policy that both schemes do not share.

    The authors' refines one draft for each prompt.
    """
    require_range("repeats", repeats, 1)
    if policy.repair != "refine" or policy.drafts > 1 or policy.keep_best:
        raise ValueError("the authors' code refines the one draft of each prompt: calibrate with --repair refine alone")


@torch.no_grad()
def one_by_one(
    cascade: Cascade,
    policy: Policy,
    prompts: Sequence[str],
    seeds: Sequence[str],
    asked: Sequence[Any],
    given: Mapping[str, Pictures] | None = None,
) -> Tensor:
    """[B, 3, H, W] by the scheme of the released code (adaptive_diffusion.py): batches of one, and pictures of 8 bits
    between student, oracle and teacher, which encodes them again."""
    alone, latents, found = replace(cascade, batch_size=1), cascade.teacher.model.latents, []
    for place, (prompt, seed, what) in enumerate(zip(prompts, seeds, asked, strict=True)):
        own = alone.given(1, **{name: pictures[[place]] for name, pictures in (given or {}).items()}).of([0])
        image = _rounded(alone.decoded_drafts(alone.drafted([prompt], [seed], [0], own), [prompt]))
        if alone.scored(image, [what]).item() < policy.threshold:
            draft = latents.encode(image)
            image = _rounded(alone.decoded(alone.improved(draft, [prompt], [seed], [0], policy, own), [prompt]))
        found.append(image)
    return torch.cat(found)


def _rounded(images: Tensor) -> Tensor:
    return to_uint8(images).to(images) / 127.5 - 1


def _seconds(run: Callable[..., Any], *some: Any) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = time.perf_counter()
    run(*some)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began
