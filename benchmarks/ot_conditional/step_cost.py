"""Time and memory of one training step: fewstep.transport.inverse_ot against the same mathematics in broadcast form.

    python benchmarks/ot_conditional/step_cost.py [--device cuda] [--dims 2 94 512] [--batch 128] [--components 32]

One step is the forward and backward pass of the paper's loss (Eq. 18) in float32, from the tensors that the networks
would hand over (log_v, slope) and the potential's parameters; the networks cost the same in both forms. Steps of the
two forms alternate in one process and the table has their medians. Memory is the peak of all tensors that live during a
step, above those that were there before it, as the allocators count them.
"""

import argparse
import itertools
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import softplus

from fewstep.transport import inverse_ot
from fewstep.transport.inverse_ot import Cost, Potential
from fewstep.transport.mixtures import DiagonalCovariance

Inputs = dict[str, Tensor]
LEAVES = ("logits_w", "center", "raw_var", "logits_v", "slope", "logits_v_unpaired", "slope_unpaired")


def make_inputs(
    dim: int, batch: int, components: int, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> Inputs:
    """A potential of N and costs of M = N = `components` at B = `batch` pairs and as many unpaired x and y."""
    torch.manual_seed(0)
    shapes = {
        "logits_w": (components,),
        "center": (components, dim),
        "raw_var": (components, dim),
        "logits_v": (batch, components),
        "slope": (batch, components, dim),
        "logits_v_unpaired": (batch, components),
        "slope_unpaired": (batch, components, dim),
        "y": (batch, dim),
        "y_unpaired": (batch, dim),
    }
    inputs = {name: torch.randn(shape, dtype=dtype).to(device) for name, shape in shapes.items()}
    for name in ("slope", "slope_unpaired"):
        inputs[name] /= math.sqrt(dim)  # tilts of order one in every dimension
    for name in LEAVES:
        inputs[name].requires_grad_()
    return inputs


def fewstep_loss(inputs: Inputs) -> Tensor:
    """Eq. 18 through fewstep: matrix products of (B·M) x D x N."""
    covariance = DiagonalCovariance(softplus(inputs["raw_var"]))
    potential = Potential(inputs["logits_w"].log_softmax(0), inputs["center"], covariance)
    pair = Cost(inputs["logits_v"].log_softmax(-1), inputs["slope"])
    unpaired = Cost(inputs["logits_v_unpaired"].log_softmax(-1), inputs["slope_unpaired"])
    terms = inverse_ot.inverse_ot_terms(potential, pair, inputs["y"], unpaired, inputs["y_unpaired"])
    return torch.stack(list(terms.values())).sum()


def plain_loss(inputs: Inputs) -> Tensor:
    """Eq. 18 as it is written, every index an axis: log z_nm(x) is summed over D in a tensor [B, N, M, D]."""
    log_w, center, var = inputs["logits_w"].log_softmax(0), inputs["center"], softplus(inputs["raw_var"])

    # c(x_p, y_p) = -log Σ_m v_m exp⟨slope_m, y_p⟩
    tilt = (inputs["slope"] * inputs["y"][:, None, :]).sum(-1)  # [B, M]
    cost = -torch.logsumexp(inputs["logits_v"].log_softmax(-1) + tilt, dim=-1)

    # f(y_r) = log Σ_n w_n N(y_r | center_n, var_n)
    distance = (inputs["y_unpaired"][:, None, :] - center).square() / var  # [B, N, D]
    log_normal = -0.5 * (distance + var.log() + math.log(2 * math.pi)).sum(-1)
    potential = torch.logsumexp(log_w + log_normal, dim=-1)

    # log Z(x_q) = log Σ_nm w_n v_m exp(½ slope_mᵀ Σ_n slope_m + ⟨center_n, slope_m⟩)
    slope = inputs["slope_unpaired"][:, None, :, :]  # [B, 1, M, D]
    exponent = (0.5 * slope.square() * var[:, None, :] + slope * center[:, None, :]).sum(-1)  # [B, N, M]
    log_z = log_w[:, None] + inputs["logits_v_unpaired"].log_softmax(-1)[:, None, :] + exponent
    normalizer = torch.logsumexp(log_z.flatten(1), dim=-1)

    return cost.mean() - potential.mean() + normalizer.mean()


LOSSES: dict[str, Callable[[Inputs], Tensor]] = {"plain": plain_loss, "fewstep": fewstep_loss}


def step(loss: Callable[[Inputs], Tensor], inputs: Inputs) -> tuple[Tensor, ...]:
    """Forward and backward; returns the loss and the gradient of every leaf."""
    value = loss(inputs)
    return value.detach(), *torch.autograd.grad(value, [inputs[name] for name in LEAVES])


def check_equal(inputs: Inputs) -> None:
    """Both forms have the same loss and the same gradients, to float32 rounding."""
    for plain, ours in zip(step(plain_loss, inputs), step(fewstep_loss, inputs), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-5 * float(plain.abs().max()))


def seconds(loss: Callable[[Inputs], Tensor], inputs: Inputs) -> float:
    """Wall-clock time of one step."""
    on_gpu = inputs["y"].is_cuda
    began = time.perf_counter()
    step(loss, inputs)
    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - began


def median_times(inputs: Inputs, budget_s: float) -> dict[str, float]:
    """Median seconds of each form over alternating steps; at least 5 rounds, then until `budget_s` is spent."""
    for loss in LOSSES.values():
        seconds(loss, inputs)
    times: dict[str, list[float]] = {name: [] for name in LOSSES}
    end = time.perf_counter() + budget_s
    while len(times["plain"]) < 5 or time.perf_counter() < end:
        for name, loss in LOSSES.items():
            times[name].append(seconds(loss, inputs))
    return {name: statistics.median(values) for name, values in times.items()}


def peak_bytes(loss: Callable[[Inputs], Tensor], inputs: Inputs) -> int:
    """Peak bytes allocated by one step, gradients included, above what was held before it."""
    step(loss, inputs)
    if inputs["y"].is_cuda:
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        step(loss, inputs)
        return torch.cuda.max_memory_allocated() - held
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step(loss, inputs)
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder, "trace.json")
        profile.export_chrome_trace(str(trace))
        events = [e for e in json.loads(trace.read_text())["traceEvents"] if e["name"] == "[memory]"]
    changes = [event["args"]["Bytes"] for event in sorted(events, key=lambda event: event["ts"])]
    return max(itertools.accumulate(changes))


def row(dim: int, options: argparse.Namespace) -> str:
    """One line of the table."""
    inputs = make_inputs(dim, options.batch, options.components, options.device)
    check_equal(inputs)
    times = median_times(inputs, options.seconds)
    peaks = {name: peak_bytes(loss, inputs) for name, loss in LOSSES.items()}
    ms = [f"{1e3 * times[name]:.2f}" for name in LOSSES]
    mib = [f"{peaks[name] / 2**20:.1f}" for name in LOSSES]
    faster, smaller = times["plain"] / times["fewstep"], peaks["plain"] / peaks["fewstep"]
    return f"| {dim} | {ms[0]} | {ms[1]} | {faster:.1f}x | {mib[0]} | {mib[1]} | {smaller:.1f}x |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--dims", type=int, nargs="+", default=[2, 94, 512], help="D, the dimension of y")
    parser.add_argument("--batch", type=int, default=128, help="B: pairs, unpaired x and unpaired y")
    parser.add_argument("--components", type=int, default=32, help="N = M")
    parser.add_argument("--seconds", type=float, default=5.0, help="time to spend on each D")
    options = parser.parse_args()
    print(f"B = {options.batch}, N = M = {options.components}, float32, {options.device}, 1 thread\n")
    print("| D | plain, ms | fewstep, ms | faster | plain, MiB | fewstep, MiB | smaller |")
    print("|---|---|---|---|---|---|---|")
    for dim in options.dims:
        print(row(dim, options), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler reports its stages and a missing GPU
    main()
