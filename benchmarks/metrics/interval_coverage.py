"""How often 95 % intervals of FID, KID and CMMD hold what they should: simulated features, many repetitions.

    python benchmarks/metrics/interval_coverage.py [--repeats 200] [--draws 100] [--metrics fid kid cmmd]

Each case draws n real and n generated samples of D features again and again, takes the metric and its intervals, and
counts how often these hold (a) the mean of the metric over the repetitions, which is what another evaluation with as
many samples would find, and, for FID, (b) its value for infinitely many samples (500,000); its bias lies between.
"""

import argparse
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fewstep.metrics.frechet import FeatureMoments, Gaussian, frechet_distance, frechet_influence
from fewstep.metrics.intervals import influence_interval, jackknife_error
from fewstep.metrics.kernel_distance import cmmd, cmmd_influence, kid, kid_influence

LEVEL = torch.tensor([0.025, 0.975], dtype=torch.float64)
BLOCKS, STUDENT = 20, 2.093  # of the jackknife, and Student's t for them
MANY = 500_000


class Case(NamedTuple):
    metric: str
    features: str
    dims: int
    num: int
    change: float  # how far the generated features are from the real ones; 0 for equal distributions


CASES = (
    Case("fid", "Gaussian", 8, 400, 0.3),
    Case("fid", "Gaussian", 32, 320, 0.3),
    Case("fid", "Gaussian", 32, 320, 0.0),
    Case("fid", "Gaussian", 64, 48, 0.3),
    Case("fid", "log-normal", 32, 320, 0.3),
    Case("fid", "log-normal", 8, 400, 0.3),
    Case("fid", "pairs", 32, 320, 0.3),
    Case("kid", "Gaussian", 32, 200, 0.3),
    Case("kid", "Gaussian", 32, 200, 0.0),
    Case("kid", "pairs", 32, 200, 0.3),
    Case("cmmd", "Gaussian", 32, 200, 0.3),
    Case("cmmd", "Gaussian", 32, 200, 0.0),
)


def draw(case: Case, num: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Real and generated features [num, D], of scales 1 to 0.03 as those of a network fall off."""
    noise = partial(torch.randn, num, case.dims, generator=rng, dtype=torch.float64)
    fixed = torch.Generator().manual_seed(1)
    mix = torch.randn(case.dims, case.dims, generator=fixed, dtype=torch.float64) / case.dims**0.5
    real = noise()
    made = (real + noise()) / 2**0.5 if case.features == "pairs" else noise()
    if case.features == "log-normal":
        real, made = real.mul(0.8).exp(), made.mul(0.8).exp()
    scales = torch.logspace(0, -1.5, case.dims, dtype=torch.float64)
    real, made = real * scales, made * scales
    made = made + case.change * (made @ mix + 1 / case.dims**0.5)
    return (F.normalize(real + 1), F.normalize(made + 1)) if case.metric == "cmmd" else (real, made)


def gaussian(rows: Tensor) -> Gaussian:
    moments = FeatureMoments(rows.shape[1])
    moments.add(rows)
    return moments.gaussian()


def value(metric: str, real: Tensor, made: Tensor) -> Tensor:
    if metric == "fid":
        return torch.tensor(frechet_distance(gaussian(real), gaussian(made)))
    return torch.tensor(kid(real, made, 1, len(real)).mean if metric == "kid" else cmmd(real, made))


def influence(metric: str, real: Tensor, made: Tensor) -> Tensor:
    if metric == "fid":
        return frechet_influence(gaussian(real), gaussian(made), made, real)
    return kid_influence(real, made) if metric == "kid" else cmmd_influence(real, made)


def intervals(metric: str, real: Tensor, made: Tensor, draws: int, rng: torch.Generator) -> dict[str, tuple]:
    take: Callable[[Tensor, Tensor], Tensor] = partial(value, metric)
    now, num = float(take(real, made)), len(real)
    rows = (torch.randint(num, (num,), generator=rng) for _ in range(draws))
    resampled = torch.stack([take(real[i], made[i]) for i in rows]).double()
    low, high = resampled.quantile(LEVEL).tolist()
    margin = STUDENT * jackknife_error(take, real, made, num_blocks=BLOCKS) if num >= 4 * BLOCKS else float("nan")
    return {
        "value": (now, now),
        "percentile": (low, high),
        "basic": (2 * now - high, 2 * now - low),
        "jackknife of 20 blocks": (now - margin, now + margin),
        "influence": influence_interval(now, influence(metric, real, made)),
    }


def study(case: Case, repeats: int, draws: int) -> None:
    """Print the coverages of each method as one row of the table."""
    found: dict[str, list] = {}
    for repeat in range(repeats):
        rng = torch.Generator().manual_seed(repeat + 1)
        for name, ends in intervals(case.metric, *draw(case, case.num, rng), draws, rng).items():
            found.setdefault(name, []).append(ends)
    ends = {name: torch.tensor(pairs, dtype=torch.float64) for name, pairs in found.items()}
    values = ends.pop("value")[:, 0]
    targets, limit = [values.mean()], ""
    if case.metric == "fid":
        targets.append(value("fid", *draw(case, MANY, torch.Generator().manual_seed(0))))
        limit = f"{targets[1]:.3g}"
    shares = [" / ".join(covered(e, target) for target in targets) for e in ends.values()]
    row = [case.metric, case.features, case.dims, case.num, f"{case.change:g}", limit]
    print("|", " | ".join(map(str, [*row, f"{values.mean():.3g} ± {values.std():.2g}", *shares])), "|", flush=True)


def covered(ends: Tensor, target: Tensor) -> str:
    return (
        f"{float(((ends[:, 0] <= target) & (target <= ends[:, 1])).double().mean()):.2f}"
        if ends.isfinite().all()
        else "–"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--metrics", nargs="+", default=["fid", "kid", "cmmd"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| | features | D | n | change | n = ∞ | mean ± std | percentile | basic | jackknife | influence |")
    print("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
    for case in (case for case in CASES if case.metric in args.metrics):
        study(case, args.repeats, args.draws)


if __name__ == "__main__":
    main()
