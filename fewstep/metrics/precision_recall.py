"""How true and how varied is a set of generated pictures? Precision and density, recall and coverage.

Kynkäänniemi et al. 2019, Improved Precision and Recall; Naeem et al. 2020, Reliable Fidelity and Diversity Metrics.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

CHUNK = 1024  # rows of a distance matrix held at once
ROUNDING = 1e-12  # squared distances below that share of the squared norms are zero


def precision_recall_density_coverage(real: Tensor, generated: Tensor, neighbours: int = 5) -> dict[str, float]:
    """Four shares for features [n, D] and [m, D]; the ball of a point reaches to its k-th neighbour in its own set.

    precision: of generated points in the ball of a real one; recall: of real points in the ball of a generated one;
    density: real balls around a generated point, over k (may exceed 1, 1 for equal distributions); coverage: of real
    balls that hold a generated point. Needs n, m > k. In float64, O((n + m)^2 D) time, O(CHUNK (n + m)) memory.
    """
    if neighbours < 1 or min(len(real), len(generated)) <= neighbours:
        raise ValueError(
            f"precision and recall with {neighbours} neighbours need more than that many images on either side, got "
            f"{len(real)} real and {len(generated)} generated ones"
        )
    shift = real.double().mean(0)  # distances stay, rounding shrinks
    x, y = real.double() - shift, generated.double() - shift
    if not (torch.isfinite(x).all() and torch.isfinite(y).all()):
        raise ValueError("precision and recall need finite features")
    real_radii, generated_radii = _radii(x, neighbours), _radii(y, neighbours)
    real_balls = torch.cat([(d <= real_radii).sum(1) for d in _squared_distances(y, x)])  # [m] that hold a generated
    recalled, nearest = [], []
    for distances in _squared_distances(x, y):
        recalled.append((distances <= generated_radii).any(1))
        nearest.append(distances.amin(1))
    return {
        "precision": float((real_balls > 0).double().mean()),
        "recall": float(torch.cat(recalled).double().mean()),
        "density": float(real_balls.double().mean() / neighbours),
        "coverage": float((torch.cat(nearest) <= real_radii).double().mean()),
    }


def _radii(points: Tensor, neighbours: int) -> Tensor:
    """Squared distance of each point to its k-th neighbour, itself not counted, [n]."""
    chunks = _squared_distances(points, points)
    return torch.cat([d.kthvalue(neighbours + 1, dim=1).values for d in chunks])


def _squared_distances(a: Tensor, b: Tensor) -> Iterator[Tensor]:
    """Chunks [<= CHUNK, len(b)] of all squared distances; exactly 0 between equal points."""
    norms = b.square().sum(1)
    for rows in a.split(CHUNK):
        both = rows.square().sum(1)[:, None] + norms
        squared = both - 2 * rows @ b.T
        yield torch.where(squared <= ROUNDING * both, 0.0, squared)
