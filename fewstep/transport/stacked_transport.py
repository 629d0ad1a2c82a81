"""A convex mixture of conditional densities whose weights, and every step, are judged on pairs that were left out.

Members, from stiff to flexible: a joint Gaussian by expectation-maximisation, ridge regression (gaussian.py), density
networks that are linear in x, density networks with hidden layers and several components, and light solvers, whose
components all y place and x only tilts. The networks minimise the negative log-likelihood of the pairs plus the
marginal term of Eq. 25 of arXiv 2410.02628. Of each there are F copies, and for each amount of noise on x; copy f is
trained without the folds f and f + 1 of the F folds of the pairs, and the density of a
member is the mean over its copies. What the copies say of the pairs that they never saw, the mean of two for each pair,
decides when the networks are kept, and the weights: those of the largest left-out likelihood (stacking of predictive
distributions, Yao et al. 2018, arXiv 1704.02030). So all pairs train and all judge, and the mixture is nearly as good
as its best member. Few pairs overfit every copy, but each in its own way: their mean is far better than one of them.
"""

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fewstep.rng import PerSampleRng, standard_normal, standard_uniform
from fewstep.transport import conditional_mixture
from fewstep.transport.closed_forms import ClosedForms
from fewstep.transport.cross_fitting import assign_folds, held_out, seen_by, stacking_weights
from fewstep.transport.density_networks import Components, DensityNetworks
from fewstep.transport.dimensions import check_dimensions
from fewstep.transport.light_networks import LightNetworks
from fewstep.transport.networks import options_of
from fewstep.transport.table_scale import check_table, scale_of

FEWEST_PAIRS = 4
ROWS = 256  # conditions at once: each has thousands of Gaussians


class StackedTransport(nn.Module):
    """p(y|x) from few pairs and many unpaired rows of any table; exact density, sampler, means and quantiles.

    Args:
        x_dim, y_dim: Dx and Dy.
        num_components, hidden: of the flexible density networks.
        num_potential, num_cost, slope_hidden: N, M and the hidden widths of the light solvers.
        noise: deviations of the noise on paired x, for standardised x; a network is trained with each.
        folds: F.
        floor: smallest deviation of a coordinate of y given the earlier ones, in deviations of y.
        pair_rows: pairs in a step; all, where there are fewer.

    x and y are standardised within, by all known rows. Left-out values are in nats of y as it is given.
    """

    log_weight: Tensor
    held_out_nll: Tensor
    best: Tensor
    pairs_x: Tensor
    pairs_y: Tensor
    fold: Tensor
    x_shift: Tensor
    x_scale: Tensor
    y_shift: Tensor
    y_scale: Tensor

    def __init__(
        self,
        x_dim: int,
        y_dim: int,
        num_components: int = 10,
        hidden: Sequence[int] = (64,),
        noise: Sequence[float] = (0.1,),
        folds: int = 8,
        floor: float = 0.03,
        pair_rows: int = 128,
        num_potential: int = 50,
        num_cost: int = 8,
        slope_hidden: Sequence[int] = (25,),
    ) -> None:
        options = options_of(locals())
        super().__init__()
        if not noise or min(noise) < 0:
            raise ValueError(f"noise={list(noise)}: give at least one deviation, each from 0")
        if folds < 3 or num_components < 1 or pair_rows < 1:
            raise ValueError(
                f"folds={folds} (from 3), num_components={num_components} and pair_rows={pair_rows} (from 1)"
            )
        if not 0 < floor < 1:
            raise ValueError(f"floor={floor}: choose a share of the deviation of y, above 0 and below 1")
        self.options, self.x_dim, self.y_dim = options, x_dim, y_dim
        self.noise, self.folds, self.pair_rows = tuple(noise), folds, pair_rows
        self.num_components, self.num_potential, self.num_cost = num_components, num_potential, num_cost
        self.closed = ClosedForms(x_dim, y_dim)
        sizes = folds * len(noise), x_dim, y_dim
        self.networks = nn.ModuleDict(
            {
                "linear": DensityNetworks(*sizes, 1, (), floor),
                "mixture": DensityNetworks(*sizes, num_components, hidden, floor),
                "light": LightNetworks(*sizes, num_potential, num_cost, slope_hidden, floor),
            }
        )
        self.kept = copy.deepcopy(self.networks).requires_grad_(False)
        self.members = [*self.closed.names, *(f"{name} {noise:g}" for name in self.networks for noise in self.noise)]
        self.register_buffer("log_weight", torch.full((len(self.members),), -math.log(len(self.members))))
        self.register_buffer("best", torch.full((len(self.members),), torch.inf))
        self.register_buffer("held_out_nll", torch.tensor(torch.inf))
        for side, dim in (("x", x_dim), ("y", y_dim)):
            self.register_buffer(f"{side}_shift", torch.zeros(dim))
            self.register_buffer(f"{side}_scale", torch.ones(dim))
            self.register_buffer(f"pairs_{side}", torch.zeros(0, dim), persistent=False)
        self.register_buffer("fold", torch.zeros(0, dtype=torch.long), persistent=False)

    # -- density and sampler ------------------------------------------------------------------------------------------

    def mixture(self, x: Tensor) -> Components:
        """All Gaussians of p(y|x) at x [B, Dx]."""
        x = (x - self.x_shift) / self.x_scale
        log_w, mean, whiten = zip(*self._members(x), strict=True)
        weighted = [part + weight for part, weight in zip(log_w, self.log_weight, strict=True)]
        joined = Components(torch.cat(weighted, 1), torch.cat(mean, 1), torch.cat(whiten, 1))
        return Components(joined.log_w, joined.mean * self.y_scale + self.y_shift, joined.whiten / self.y_scale)

    def log_density(self, y: Tensor, x: Tensor) -> Tensor:
        """log p(y_i|x_i) in nats, exact. y [B, Dy], x [B, Dx]. Returns [B]."""
        parts = zip(x.split(ROWS), y.split(ROWS), strict=True)
        return torch.cat([self.mixture(x_part).log_density(y_part) for x_part, y_part in parts])

    def sample(self, x: Tensor, rng: PerSampleRng | None = None) -> Tensor:
        """One exact draw per row of x [B, Dx]. Returns [B, Dy]."""
        drawn = x, standard_uniform(rng, x), standard_normal(rng, x, self.y_dim)
        parts = zip(*(rows.split(ROWS) for rows in drawn), strict=True)
        return torch.cat([self.mixture(part).sample(uniform, noise) for part, uniform, noise in parts])

    def conditional_mixture(self, x: Tensor) -> conditional_mixture.Mixture:
        """Weights, means and deviations of all Gaussians at x, float64."""
        log_w, mean, whiten = (part.double() for part in self.mixture(x))
        inverse = torch.linalg.solve_triangular(whiten, torch.eye(self.y_dim).to(whiten), upper=False)
        return conditional_mixture.Mixture(log_w.softmax(-1), mean, inverse.square().sum(-1).sqrt())

    @property
    def num_gaussians(self) -> int:
        copies = self.folds * len(self.noise)
        return len(self.closed.names) + copies * (1 + self.num_components + self.num_potential * self.num_cost)

    def _members(self, x: Tensor) -> list[Components]:
        """Of every member at standardised x [B, Dx]: closed forms, then networks, the mean over their folds."""
        found = self.closed(x)
        for network in self.kept.values():
            parts = network(x).components()
            for copies in torch.arange(len(parts.log_w)).split(self.folds):  # [F, B, K, ...] to [B, F K, ...]
                several = [part[copies].transpose(0, 1).flatten(1, 2) for part in parts]
                found.append(Components(several[0] - math.log(self.folds), *several[1:]))
        return found

    # -- training -----------------------------------------------------------------------------------------------------

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Nets under "cost"; under "potential" what is of a component at any x."""
        potential: list[nn.Parameter] = []
        for network in self.networks.values():
            assert isinstance(network, DensityNetworks | LightNetworks)
            potential += network.potential_parameters()
        known = {id(parameter) for parameter in potential}
        return {"cost": [p for p in self.networks.parameters() if id(p) not in known], "potential": potential}

    @torch.no_grad()
    def initialise(self, x: Tensor, y: Tensor) -> None:
        """Scales of x [Q, Dx] and y [R, Dy], all known rows; ValueError in one line for a column that is constant."""
        check_dimensions(self, x.shape[1], y.shape[1])
        check_table(x, y)
        for side, rows in (("x", x), ("y", y)):
            shift, scale = scale_of(rows)
            getattr(self, f"{side}_shift").copy_(shift)
            getattr(self, f"{side}_scale").copy_(scale)

    @torch.no_grad()
    def start(self, x: Tensor, y: Tensor, x_unpaired: Tensor, y_unpaired: Tensor) -> None:
        """Fit the closed forms to all pairs and without each fold, start the networks there, and judge that start.

        After `initialise`. ValueError in one line for fewer pairs than FEWEST_PAIRS.
        """
        num = len(x)
        if num < max(FEWEST_PAIRS, self.folds):
            least = max(FEWEST_PAIRS, self.folds)
            raise ValueError(
                f"{num} pairs cannot be judged without one another; give at least {least}, or LightTransport"
            )
        device, dtype = self.log_weight.device, self.log_weight.dtype
        x, x_unpaired = ((rows.double() - self.x_shift.cpu()) / self.x_scale.cpu() for rows in (x, x_unpaired))
        y, y_unpaired = ((rows.double() - self.y_shift.cpu()) / self.y_scale.cpu() for rows in (y, y_unpaired))
        fold = assign_folds(num, self.folds)
        joints = self.closed.fit(x, y, x_unpaired, y_unpaired, fold, self.folds)
        for network in self.networks.values():
            if isinstance(network, LightNetworks):
                network.start(torch.cat([y, y_unpaired]).to(dtype))
            elif isinstance(network, DensityNetworks):
                for number, (seen, joint) in enumerate(zip(seen_by(fold, self.folds), joints, strict=True)):
                    residual = y[seen] - x[seen] @ joint.weight.T - joint.bias
                    for place in range(number, self.folds * len(self.noise), self.folds):
                        network.start(place, joint, residual)
        self.pairs_x, self.pairs_y, self.fold = x.to(device, dtype), y.to(device, dtype), fold.to(device)
        self.best.fill_(torch.inf)
        self.keep_best()

    @torch.no_grad()
    def keep_best(self) -> None:
        """Keep the networks as they are, member by member, where they are the best so far on left-out pairs.

        Then fit the weights. A start that no step improves on stays.
        """
        first = place = len(self.closed.names)
        for name, network in self.networks.items():
            for copies, score in zip(self._copies(), self._held_out(network).split(1, 1), strict=True):
                if (nll := -score.mean()) < self.best[place]:
                    self.best[place] = nll
                    state = network.state_dict()
                    for key, value in self.kept[name].state_dict().items():
                        value[copies] = state[key][copies]
                place += 1
        self.best[:first] = -self.closed.held_out.mean(0)
        scores = torch.cat([self.closed.held_out, *(self._held_out(network) for network in self.kept.values())], 1)
        self.log_weight.copy_(stacking_weights(scores).log())
        nll = -torch.logsumexp(scores + self.log_weight, 1).mean() + self.y_scale.log().sum()
        self.held_out_nll.copy_(nll)

    def _copies(self) -> list[Tensor]:
        """Of every amount of noise, the copies: one for each fold."""
        return list(torch.arange(self.folds * len(self.noise)).split(self.folds))

    def _held_out(self, network: nn.Module) -> Tensor:
        """log-density of every pair by the mean of the copies that never saw it, [P, noise]."""
        values = network(self.pairs_x).log_density(self.pairs_y).unflatten(0, (len(self.noise), self.folds))
        return held_out(values, self.fold).T

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Scalar terms that add up to the objective; of a batch only x_unpaired and y_unpaired count.

        The pairs are those given to `start`, validation pairs among them: each network leaves two folds out.
        """
        x, y = self.pairs_x, self.pairs_y
        picked = torch.randperm(len(x), device=x.device)[: self.pair_rows]
        copies = self.folds * len(self.noise)
        seen = seen_by(self.fold[picked], self.folds).repeat(len(self.noise), 1).to(x.dtype)  # [C, B]
        noise = torch.tensor(self.noise, device=x.device, dtype=x.dtype).repeat_interleave(self.folds)
        blurred = x[picked] + noise[:, None, None] * torch.randn(copies, len(picked), self.x_dim).to(x)
        x_unpaired = (batch["x_unpaired"] - self.x_shift) / self.x_scale
        y_unpaired = (batch["y_unpaired"] - self.y_shift) / self.y_scale
        both = torch.cat([blurred, x_unpaired.expand(copies, -1, -1)], 1)
        terms = {}
        for name, network in self.networks.items():
            parts = network(both)
            likelihood = parts.rows(0, len(picked)).log_density(y[picked])
            terms[f"{name}_pair"] = -((likelihood * seen).sum(1) / seen.sum(1).clamp_min(1)).sum()
            marginal = parts.rows(len(picked), both.shape[1]).log_marginal(y_unpaired)
            terms[f"{name}_marginal"] = -marginal.mean(1).sum()
        return terms

    @torch.no_grad()
    def diagnostics(self, x: Tensor) -> dict[str, Tensor]:
        """Weight of every member, and its left-out NLL in units of standardised y."""
        names = [name.replace(" ", "_") for name in self.members]
        weights = {f"weight_{name}": weight for name, weight in zip(names, self.log_weight.exp(), strict=True)}
        return weights | {f"left_out_nll_{name}": nll for name, nll in zip(names, self.best, strict=True)}
