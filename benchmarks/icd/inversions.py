"""Encode and decode: reconstructions by the teacher in many and in few steps, and by the students (C1 to C8, C12)."""

from collections.abc import Sequence

from torch import Tensor

from benchmarks.icd.bench import Bench, fine_times
from benchmarks.icd.chains import Chains
from benchmarks.icd.results import Row
from fewstep.diffusion.guidance import DynamicGuidance, GuidanceSchedule, unguided
from fewstep.diffusion.solvers import ddim, fixed_point
from fewstep.distillation.boundaries import Boundaries
from fewstep.icd.pair import InvertibleConsistency
from fewstep.losses import l2

SWEEP = (0.4, 0.6)  # further times below which decoding is guided (Fig. 4a)
ITERATIONS = 5  # of the fixed point


def teacher_inversions(bench: Bench, boundaries: Sequence[Boundaries]) -> None:
    """DDIM chains that start at the students' noise level and at the data, over fine grids and over boundaries."""
    chains = bench.chains
    add(bench, bench.row("inversion", "autoencoder"), bench.data, None, 0, 0.0)
    first = bench.pair.boundaries.start
    sweep = {f"w={bench.scale:g}, t<={t}": DynamicGuidance(bench.scale, t) for t in SWEEP}
    for start in dict.fromkeys((first, 0.0)):
        for name, up, down in [("DDIM 50+50", fine_times(start), fine_times(0)[::-1]), *_coarse(boundaries, start)]:
            some = bench.guidances | sweep if start == first else dict(list(bench.guidances.items())[:2])
            _decoded(bench, chains, name, up, down, some)
    for name, up, down in _coarse(boundaries, first, "fixed point"):
        _decoded(bench, chains, name, up, down, bench.guidances, inverse=True)
    if bench.plain is not None:  # with its source as null prompt, decoding is unguided whatever w is
        _decoded(bench, bench.plain, "NPI 50+50", fine_times(first), fine_times(0)[::-1], {"any": unguided})


def _coarse(
    boundaries: Sequence[Boundaries], start: float, name: str = "DDIM"
) -> list[tuple[str, tuple[float, ...], tuple[float, ...]]]:
    """Chains over each set of boundaries: m of the paper's m + m, times up and times down."""
    different = {ends.times: ends for ends in boundaries}.values()
    return [
        (f"{name} {chain_name(ends, different)}", (start, *ends.times[1:]), ends.decode_times) for ends in different
    ]


def chain_name(ends: Boundaries, others: Sequence[Boundaries] = ()) -> str:
    """4+4; with its times where another has as many."""
    same = [other for other in others if len(other.times) == len(ends.times)]
    times = f" ({' '.join(f'{t:g}' for t in ends.times[1:-1])})" if len(same) > 1 else ""
    return f"{len(ends.times) - 1}+{len(ends.decode_times) - 1}{times}"


def _decoded(
    bench: Bench,
    chains: Chains,
    method: str,
    up: tuple[float, ...],
    down: tuple[float, ...],
    guidances: dict[str, GuidanceSchedule],
    inverse: bool = False,
) -> None:
    solver, calls = (fixed_point, ITERATIONS + 1) if inverse else (ddim, 1)
    for name, guidance in guidances.items():
        row = bench.row("inversion", method, name, start=up[0])
        if bench.results.lacks(row):
            code, spent = chains.encode(bench.data, bench.noise, up, bench.condition, solver=solver)
            found, more = chains.decode(code, down, bench.condition, guidance, key=(up, solver))
            add(bench, row, found, code, calls * (len(up) - 1) + len(down) - 1, spent + more)


def student_inversions(bench: Bench, config: str, export: str, pair: InvertibleConsistency) -> None:
    """The rows of Table 2 for one pair: unguided, and guided in three ways; and the ramp of C10."""
    ends = pair.boundaries
    chains = Chains(pair.forward, pair.model.parametrization, bench.batch, pair.reverse)
    for name, guidance in (bench.guidances | dict([bench.ramp])).items():
        row = bench.row("inversion", f"iCD {chain_name(ends)}", name, config, export, ends.start)
        if bench.results.lacks(row):
            code, spent = chains.encode(bench.data, bench.noise, ends.encode_times, bench.condition)
            found, more = chains.decode(code, ends.decode_times, bench.condition, guidance)
            calls = len(ends.encode_times) + len(ends.decode_times) - 2
            add(bench, row, found, code, calls, spent + more)


def add(bench: Bench, row: Row, latents: Tensor, code: Tensor | None, calls: int, seconds: float) -> None:
    """Measure reconstructed latents [N, C, h, w]; the code is the noise that they were decoded from."""
    if not bench.results.lacks(row):
        return
    values = {"latent_mse": l2(latents, bench.data).cpu()}
    values |= bench.judge.nearness(bench.images(latents), bench.pictures.image.to(latents.device))
    if code is not None:
        values["code_mean_square"] = code.square().mean((1, 2, 3)).cpu()
    bench.results.add(row, values, nfe=calls, seconds=round(seconds / len(latents), 5))


def guided_encodings(bench: Bench) -> None:
    """What guidance does to codes (C8, Table 1): encode with w = 1 and w, decode both with w; distance to drawings."""
    chains = bench.chains
    up, down = fine_times(bench.pair.boundaries.start), fine_times(0)[::-1]
    real = bench.judge.gaussian(bench.every.image)
    for scale in (1.0, bench.scale):
        row = bench.row("codes", "DDIM 50+50", f"encode w={scale:g}, decode w={bench.scale:g}", start=up[0])
        if bench.results.lacks(row):
            guidance = DynamicGuidance(scale)
            code, spent = chains.encode(
                bench.data, bench.noise, up, bench.condition, guidance, key=None if scale == 1 else scale
            )
            key = (up, ddim) if scale == 1 else scale  # of the first the inversions know the answer
            found, more = chains.decode(code, down, bench.condition, DynamicGuidance(bench.scale), key=key)
            distance = bench.judge.distance(bench.images(found), real)
            values = {"code_mean_square": code.square().mean((1, 2, 3)).cpu()}
            bench.results.add(row, values, fd_mobilenet=distance, seconds=round((spent + more) / len(code), 5))
