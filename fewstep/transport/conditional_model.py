"""A trained model of p(y|x) that is asked and answers in natural units, those of the table that it was trained on."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fewstep.rng import PerSampleRng
from fewstep.transport import conditional_mixture
from fewstep.transport.light_transport import LightTransport
from fewstep.transport.stacked_transport import StackedTransport
from fewstep.transport.units import Units

Rows = Tensor | np.ndarray | Sequence[Any]  # [B, D] of numbers, or [D] for one row
DRAWS = 4096  # for means and quantiles of a network that has them in no closed form
ROWS_AT_ONCE, DRAWS_AT_ONCE = 1 << 10, 1 << 12
CELLS_AT_ONCE = 1 << 21  # rows x levels x components x dimensions


class ConditionalModel:
    """p(y|x) of a network of this room, such as `fewstep.transport.load` gives it.

    x is [B, Dx] or one row [Dx], y is [B, Dy] or one row [Dy]: tensors, arrays or lists, in the units of the table;
    answers are float64 tensors on the CPU. ValueError in one line for rows that do not fit or are not finite.
    """

    def __init__(self, network: nn.Module, units: Units) -> None:
        self.network: Any = network  # with `sample` and `log_density`
        self.units = units

    @torch.no_grad()
    def sample(self, x: Rows, n: int = 1, seed: int = 0, keys: Sequence[int | str] | None = None) -> Tensor:
        """n draws of y for each x, [B, n, Dy]. A draw depends on seed and its x's key only; keys: row numbers."""
        if n < 1:
            raise ValueError(f"n={n}: draw at least one sample")
        rows = self._rows("x", x)
        keys = range(len(rows)) if keys is None else keys
        parts = []
        for start in range(0, n, DRAWS_AT_ONCE):
            several, size = min(DRAWS_AT_ONCE, n - start), max(1, DRAWS_AT_ONCE // n)
            drawn = []
            for first in range(0, len(rows), size):
                some = rows[first : first + size]
                names = [f"{key}:{start}" for key in keys[first : first + size]]
                rng = Draws(seed, names, several, some.device)
                drawn.append(self.network.sample(some.repeat_interleave(several, 0), rng).cpu())
            parts.append(torch.cat(drawn).unflatten(0, (len(rows), several)))
        return self.units.restore("y", torch.cat(parts, 1))

    @torch.no_grad()
    def log_density(self, y: Rows, x: Rows) -> Tensor:
        """log p(y|x) [B] in nats per unit of y, exact or as exact as the network; one x serves many y."""
        targets, rows = self._rows("y", y), self._rows("x", x)
        if len(rows) == 1:
            rows = rows.expand(len(targets), -1)
        if len(rows) != len(targets):
            raise ValueError(f"{len(targets)} rows of y for {len(rows)} of x; give one x, or one for each y")
        pairs = zip(targets.split(ROWS_AT_ONCE), rows.split(ROWS_AT_ONCE), strict=True)
        values = torch.cat([self.network.log_density(some, given) for some, given in pairs])
        return values.double().cpu() - self.units.log_volume

    @torch.no_grad()
    def mean(self, x: Rows) -> Tensor:
        """E[y|x] [B, Dy]: exact for LightTransport and StackedTransport, else of DRAWS samples."""
        return self.units.restore("y", self._summary(x, 1, conditional_mixture.mean, lambda drawn: drawn.mean(1)))

    @torch.no_grad()
    def quantiles(self, x: Rows, q: Sequence[float]) -> Tensor:
        """Quantiles [B, len(q), Dy] of every column of y given x at levels q in (0, 1); exact where `mean` is."""
        levels = torch.tensor(list(q), dtype=torch.float64)
        if not len(levels) or not ((levels > 0) & (levels < 1)).all():
            raise ValueError(f"q={list(q)}: give levels above 0 and below 1, such as [0.05, 0.5, 0.95]")
        found = self._summary(
            x,
            len(levels),
            lambda mixture: conditional_mixture.quantiles(mixture, levels),
            lambda drawn: drawn.quantile(levels, dim=1).transpose(0, 1),
        )
        return self.units.restore("y", found)

    @torch.no_grad()
    def class_probabilities(self, x: Rows) -> Tensor:
        """Probabilities [B, K] of the classes of a model of labels."""
        if not hasattr(self.network, "class_log_prob"):
            raise ValueError("this model has no classes; ask for its density, mean or quantiles")
        return self.network.class_log_prob(self._rows("x", x)).double().exp().cpu()

    def _summary(
        self,
        x: Rows,
        levels: int,
        exact: Callable[[conditional_mixture.Mixture], Tensor],
        drawn: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Standardised [B, ..., Dy], by blocks of rows."""
        if hasattr(self.network, "class_log_prob"):
            raise ValueError("labels have no mean and no quantiles; ask for class_probabilities")
        if not isinstance(self.network, LightTransport | StackedTransport):
            return drawn(self.units.standardise("y", self.sample(x, DRAWS)))
        rows = self._rows("x", x)
        if isinstance(self.network, StackedTransport):
            cells = levels * self.network.num_gaussians * self.units.y_dim
            some = (self.network.conditional_mixture(part) for part in rows.split(max(1, CELLS_AT_ONCE // cells)))
            return torch.cat([exact(conditional_mixture.Mixture(*(part.cpu() for part in one))) for one in some])
        potential = self.network.potential()
        cells = levels * self.network.num_cost * len(potential.log_w) * self.units.y_dim
        blocks = (self.network.cost(some) for some in rows.split(max(1, CELLS_AT_ONCE // cells)))
        mixtures = (conditional_mixture.conditional_mixture(potential, cost) for cost in blocks)
        return torch.cat([exact(conditional_mixture.Mixture(*(part.cpu() for part in one))) for one in mixtures])

    def _rows(self, side: str, values: Rows) -> Tensor:
        """Standardised rows [B, D] as the network takes them."""
        given = torch.as_tensor(np.asarray(values, dtype=np.float64) if not isinstance(values, Tensor) else values)
        dim = self.units.x_dim if side == "x" else self.units.y_dim
        rows = given[None] if given.ndim == 1 else given
        if rows.ndim != 2 or not len(rows) or rows.shape[1] != dim:
            names = ", ".join(self.units.named(side)[:8])
            raise ValueError(f"{side} of shape {list(given.shape)}: give rows of {dim} numbers ({names})")
        weight = next(self.network.parameters())
        scaled = self.units.standardise(side, rows.cpu()).to(weight.dtype)
        if not (finite := scaled.isfinite().all(1)).all():
            row = int(finite.int().argmin())
            raise ValueError(f"row {row + 1} of {side} is not finite, or far beyond the table that was learnt from")
        return scaled.to(weight.device)


class Draws(PerSampleRng):
    """n rows of random numbers for each key, one after another: [B·n, *size] from one stream per key."""

    def __init__(self, seed: int, keys: Sequence[int | str], n: int, device: torch.device | str = "cpu") -> None:
        super().__init__(seed, keys, device)
        self.n = n

    def __len__(self) -> int:
        return len(self.generators) * self.n

    def _fill(self, size: tuple[int, ...], fill: Callable[..., Tensor]) -> Tensor:
        rows = torch.empty(len(self.generators), self.n, *size, dtype=torch.float32)
        for row, generator in zip(rows, self.generators, strict=True):
            fill(row, generator=generator)
        return rows.flatten(0, 1).to(self.device)
