"""Gaussian -> Swiss roll with pairs from entropic transport plans (inverse entropic OT, Sec. 5.1 and App. D.1).

x ~ N(0, I). y: t ~ U[1.5 pi, 4.5 pi], y = ((t cos t, t sin t) + 0.8 N(0, I)) / 7.5. For each pair a fresh minibatch of
64 x and 64 y is coupled with entropic regularisation 0.05 and one (i, j) is drawn from the plan. The cost is the
smaller of |x - J y| and |x + J y|, J the rotation by 90 degrees and the distances not squared, so that conditionals
have two modes. At a probe the plan row of that x is *sampled*, once per fresh minibatch.
"""

import argparse

import numpy as np

from datamodules.prepare import add_output_arguments
from datamodules.prepare.saying import say

BATCH, REGULARISATION = 64, 0.05
PAPER_PROBES = np.array([[-2.0, 0.0], [2.0, 2.0], [0.0, 0.0]])
SIZES = {"train_paired": 2048, "val": 512, "test": 2048, "unpaired": 16384, "probes": 64, "draws": 256}
README = """# Gaussian -> Swiss roll

Synthetic: x ~ N(0, I) in 2-d, y on a Swiss roll in 2-d, pairs from 64 x 64 entropic transport plans (reg. 0.05).
Splits: train_paired, val, test (pairs), train_x, train_y (independent rows), probe (67 x, each with 256 draws of y | x;
the last three are the paper's: (-2, 0), (2, 2), (0, 0)). float32 WebDataset shards; index.json has sizes and hashes.
Made by this project, no rights reserved (CC0-1.0). Command: `{command}`
"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    add_output_arguments(command)


def run(options: argparse.Namespace) -> None:
    from datamodules.prepare.shard_writing import Description, write_folder

    splits, residuals = build(options.seed, SIZES)
    notes = {"cost": "min(|x - Jy|, |x + Jy|)", "regularisation": REGULARISATION, "minibatch": BATCH, **residuals}
    line = options.command_line
    about = Description("swiss_roll", "CC0-1.0", line, ["x1", "x2"], ["y1", "y2"], notes=notes)
    write_folder(options.out, splits, about, README.format(command=line), options.overwrite)
    say(f"{options.out}: {residuals['plans']} plans, residual of the marginals at most {residuals['max_residual']:.1e}")


def build(seed: int, sizes: dict[str, int]) -> tuple[dict, dict]:
    """The splits as arrays, and the audit of the plans: their number and their largest marginal residual."""
    rng, residuals = np.random.default_rng(seed), []
    splits = {}
    for split in ("train_paired", "val", "test"):
        x = rng.standard_normal((sizes[split], BATCH, 2))
        splits[split] = dict(zip("xy", coupled_pairs(x, rng, residuals), strict=True))
    splits["train_x"] = {"x": rng.standard_normal((sizes["unpaired"], 2))}
    splits["train_y"] = {"y": swiss_roll(rng, sizes["unpaired"])}
    probes = np.concatenate([rng.standard_normal((sizes["probes"], 2)), PAPER_PROBES])
    draws = [probe_draws(probe, sizes["draws"], rng, residuals) for probe in probes]
    splits["probe"] = {"x": np.repeat(probes[:, None], sizes["draws"], axis=1), "y": np.stack(draws)}
    return splits, {"plans": len(residuals), "max_residual": float(np.max(residuals))}


def swiss_roll(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Points [*shape, 2] of the roll."""
    t = rng.uniform(1.5 * np.pi, 4.5 * np.pi, shape)
    return (np.stack([t * np.cos(t), t * np.sin(t)], axis=-1) + 0.8 * rng.standard_normal((*shape, 2))) / 7.5


def rotation_cost(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """min(|x_i - J y_j|, |x_i + J y_j|), [..., N, M] from [..., N, 2] and [..., M, 2]."""
    turned = np.stack([-y[..., 1], y[..., 0]], axis=-1)[..., None, :, :]
    here = x[..., :, None, :]
    return np.minimum(np.linalg.norm(here - turned, axis=-1), np.linalg.norm(here + turned, axis=-1))


def entropic_plans(
    cost: np.ndarray, reg: float = REGULARISATION, tolerance: float = 1e-7, max_iterations: int = 200_000
) -> tuple[np.ndarray, np.ndarray]:
    """Plans [B, N, M] of uniform marginals for costs [B, N, M], and their largest marginal residual [B].

    Sinkhorn in float64. The dual potentials are absorbed into the kernel every 50 iterations and start at the two
    c-transforms, which leave a one in every row and column: no logarithms are needed while the cost, less its row and
    column minima, stays below 700 reg. Solved plans leave the stack; ValueError if one misses the tolerance.
    """
    stack, n, m = cost.shape
    cost = cost - cost.min(axis=2, keepdims=True)
    plans, residuals = np.exp(-(cost - cost.min(axis=1, keepdims=True)) / reg), np.full(stack, np.inf)
    for _ in range(0, max_iterations, 50):
        left = np.flatnonzero(residuals >= tolerance)
        if not len(left):
            return plans, residuals
        kernel, v = plans[left], np.ones((len(left), m, 1))
        for _ in range(50):
            u = 1 / n / (kernel @ v)
            v = 1 / m / (kernel.mT @ u)
        plans[left] = u * kernel * v.mT
        residuals[left] = np.maximum(
            np.abs(plans[left].sum(axis=2) - 1 / n).max(axis=1), np.abs(plans[left].sum(axis=1) - 1 / m).max(axis=1)
        )
    raise ValueError(f"a plan still misses its marginals by {residuals.max():.1e} after {max_iterations} iterations")


def sample_index(weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One index per row of unnormalised weights [B, K], int64 [B]."""
    cumulative = weights.cumsum(axis=1)
    return (cumulative < rng.random((len(weights), 1)) * cumulative[:, -1:]).sum(axis=1)


def coupled_pairs(x: np.ndarray, rng: np.random.Generator, residuals: list) -> tuple[np.ndarray, np.ndarray]:
    """One pair (i, j) ~ plan for each minibatch of x [P, 64, 2], with fresh y; residuals of the plans are appended."""
    y = swiss_roll(rng, *x.shape[:2])
    chosen = []
    for start in range(0, len(x), 256):
        plans, found = entropic_plans(rotation_cost(x[start : start + 256], y[start : start + 256]))
        residuals.extend(found)
        chosen.append(sample_index(plans.reshape(len(plans), -1), rng))
    i, j = np.divmod(np.concatenate(chosen), y.shape[1])
    pairs = np.arange(len(x))
    return x[pairs, i], y[pairs, j]


def probe_draws(probe: np.ndarray, draws: int, rng: np.random.Generator, residuals: list) -> np.ndarray:
    """y [draws, 2] at one x [2]: each from the plan of a fresh minibatch that has the probe in its first place."""
    x, y = rng.standard_normal((draws, BATCH, 2)), swiss_roll(rng, draws, BATCH)
    x[:, 0] = probe
    plans, found = entropic_plans(rotation_cost(x, y))
    residuals.extend(found)
    return y[np.arange(draws), sample_index(plans[:, 0], rng)]
