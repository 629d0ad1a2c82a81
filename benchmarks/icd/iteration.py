"""One training iteration of iCD: ours against a plain transcription of the authors' schedule.

    python benchmarks/icd/iteration.py [--device cuda] [--batch 8 16 32] [--rank 16 64] [--added]

Ours: one frozen network with two adapters, merged into its weights as they are called, the summed objective in three
calls of the network, one AdamW step. Theirs (authors_schedule.py): three networks, ten calls, four AdamW steps. Same
network, rank, draws and losses, which are compared first, with random adapters. Then iterations of the two alternate in
one process; the table has medians and the median of the ratios of neighbours. On the CPU these are CPU seconds of this
process, which other users of the machine change little. Memory: bytes of all parameters that stay resident, and the
peak of all tensors that live during an iteration above what is there before it, as the allocators count them.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.icd.authors_schedule import LOWER, TARGETS, UPPER, AuthorsSchedule, Batch, trained
from benchmarks.icd.emoji_unet import EMOJI, SCALES, SCHEDULE, TOKENS, make_network
from fewstep.backbones import Adapters, DiffusersDenoiser
from fewstep.diffusion.predictions import Parametrization
from fewstep.distillation.boundaries import Boundaries
from fewstep.distillation.consistency import ConsistencyDistillation, Draw
from fewstep.distillation.shared_base import SharedBase

LR = 8e-6


class Ours:
    def __init__(self, network: nn.Module, rank: int, merged: bool = True) -> None:
        self.network = network.requires_grad_(False)
        self.adapters = Adapters(network, ("forward", "reverse"), rank, 8, TARGETS, merged)
        self.shared = SharedBase(DiffusersDenoiser(network, SCHEDULE), self.adapters)
        self.distillation = ConsistencyDistillation(
            Parametrization(SCHEDULE, "eps"), Boundaries((0, 0.26, 0.52, 0.78, 1))
        )
        self.optimizer = torch.optim.AdamW(trained(network), lr=LR, weight_decay=0.0)

    def losses(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        low, high = (torch.tensor(ends, device=batch.segment.device)[batch.segment] for ends in (LOWER, UPPER))
        low = torch.where(low == 0, 19, low)
        times = [(step + 1) / 1000 for step in (batch.forward_time, batch.reverse_time, low, high)]
        draw = Draw(batch.data, batch.noise, *times, batch.guidance_scale, {"prompt": batch.prompt})
        total, terms = self.distillation.objective(self.shared, draw)
        return total.mean(), {name: values.detach().mean() for name, values in terms.items()}

    def iteration(self, batch: Batch) -> dict[str, float]:
        total, terms = self.losses(batch)
        total.backward()
        nn.utils.clip_grad_norm_(trained(self.network), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return {name: value.item() for name, value in terms.items()}

    @property
    def modules(self) -> list[nn.Module]:
        return [self.network]


class Theirs(AuthorsSchedule):
    def __init__(self, network: nn.Module, rank: int) -> None:
        super().__init__(network, SCHEDULE(torch.arange(1, 1001) / 1000)[0] ** 2, rank, LR)

    @property
    def modules(self) -> list[nn.Module]:
        return [self.teacher, self.reverse, self.forward]


def make_batch(rows: int, config: dict[str, Any], device: str = "cpu", seed: int = 0) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    data, noise = torch.randn(2, rows, 4, *[config["sample_size"]] * 2, generator=rng)
    prompt = torch.randn(rows, TOKENS, config["cross_attention_dim"], generator=rng)
    reverse, forward = 20 * torch.randint(50, (rows,), generator=rng) + 19, torch.randint(49, (rows,), generator=rng)
    segment = torch.randint(4, (rows,), generator=rng)
    scale = torch.tensor(SCALES)[torch.randint(len(SCALES), (rows,), generator=rng)]
    columns = (data, noise, prompt, reverse, 20 * forward + 19, segment, scale)
    return Batch(*(column.to(device) for column in columns))


def randomise_adapters(theirs: Theirs, ours: Ours) -> None:
    """The same random weights in both, also in B, which starts at zero and would hide the adapters."""
    rng = torch.Generator().manual_seed(1)
    for name in ("forward", "reverse"):
        pairs = zip(trained(getattr(theirs, name)), ours.adapters.parameters(name), strict=True)
        for their, our in pairs:
            values = torch.randn(their.shape, generator=rng) / 10
            their.data.copy_(values)
            our.data.copy_(values)


def largest_difference(theirs: Theirs, ours: Ours, batch: Batch) -> float:
    """Of the four losses, relative to them, before any step."""
    with torch.no_grad():
        _, terms = ours.losses(batch)
        return max(float((terms[name] / getattr(theirs, name)(batch) - 1).abs()) for name in terms)


def parameter_bytes(modules: list[nn.Module]) -> int:
    return sum(parameter.numel() * parameter.element_size() for module in modules for parameter in module.parameters())


def seconds(run: Callable[[], object], device: str) -> float:
    clock = time.perf_counter if device == "cuda" else time.process_time
    start = clock()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def timed(sides: dict[str, Any], batch: Batch, repeats: int, device: str) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(-1, repeats):  # the first makes the optimizer's moments
        for name, side in sides.items():
            spent = seconds(lambda side=side: side.iteration(batch), device)
            if repeat >= 0:
                times[name].append(spent)
    return times


def peak_bytes(side: Any, batch: Batch, device: str) -> int:
    """Of all tensors that live during an iteration, above those before it, which are parameters and moments."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        side.iteration(batch)
        return torch.cuda.max_memory_allocated() - held
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        side.iteration(batch)
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder, "trace.json")
        profile.export_chrome_trace(str(trace))
        events = [event for event in json.loads(trace.read_text())["traceEvents"] if event["name"] == "[memory]"]
    return max(accumulate(event["args"]["Bytes"] for event in sorted(events, key=lambda event: event["ts"])))


def row(rows: int, rank: int, repeats: int, device: str, merged: bool) -> str:
    network = partial(make_network, EMOJI, device)
    sides: dict[str, Any] = {"authors": Theirs(network(), rank), "ours": Ours(network(), rank, merged)}
    batch = make_batch(rows, EMOJI, device)
    randomise_adapters(sides["authors"], sides["ours"])
    difference = largest_difference(sides["authors"], sides["ours"], batch)
    assert difference < 1e-4, f"the losses differ by {difference:.1e}"
    times = timed(sides, batch, repeats, device)
    ratio = statistics.median(a / b for a, b in zip(times["authors"], times["ours"], strict=True))
    speed = [f"{rows / statistics.median(times[name]):.1f}" for name in sides]
    held = [parameter_bytes(side.modules) / 1e6 for side in sides.values()]
    peaks = [peak_bytes(side, batch, device) / 1e6 for side in sides.values()]
    cells = [f"{rank}", f"{rows}", *speed, f"{ratio:.2f}x", *[f"{value:.1f}" for value in held]]
    cells += [f"{held[0] / held[1]:.2f}x", *[f"{value:.0f}" for value in peaks], f"{difference:.0e}"]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--rank", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--added", action="store_true", help="adapters of ours added to their layers, not merged")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"UNet of widths {EMOJI['block_out_channels']}, latents 4 x 16 x 16, float32, {options.device}, 1 thread\n")
    print(
        "| rank | batch | authors, images/s | ours, images/s | faster | authors' parameters, MB | ours, MB | fewer |",
        end="",
    )
    print(" authors' peak above, MB | ours, MB | losses differ by |")
    print("|" + "--:|" * 11)
    for rank in options.rank:
        for rows in options.batch:
            print(row(rows, rank, options.repeats, options.device, not options.added), flush=True)


if __name__ == "__main__":
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler reports its stages and a missing GPU
    main()
