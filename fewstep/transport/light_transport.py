"""The light solver as a network: parameters, initialisation, objectives and diagnostics around inverse_ot.py."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.rng import PerSampleRng, standard_normal, standard_uniform
from fewstep.transport import inverse_ot, mixtures
from fewstep.transport.dimensions import check_dimensions
from fewstep.transport.inverse_ot import Cost, Potential
from fewstep.transport.networks import mlp, options_of

OBJECTIVES = ("marginal", "blend", "inverse_ot")
GAUGE_ROWS = 256  # conditions over which the mean slope is held at zero


class LightTransport(nn.Module):
    """Conditional density π(y|x) with exact likelihood and sampler, from pairs and unpaired data (arXiv 2410.02628).

    Args:
        x_dim, y_dim: Dx and Dy.
        num_potential, num_cost: N and M; the conditional is a mixture of N·M Gaussians.
        slope_hidden, weight_hidden: hidden widths of the nets slope_m(x) and v_m(x); () is a linear map.
        covariance: "diagonal", "full" or "low_rank_R" (R the rank) for Σ_n.
        covariance_floor: lower bound of every Σ_n, as a fraction of the variance of the reference y.
        initial_variance: Σ_n at the start in units of ε. None fits the whole mixture to the reference y by
            expectation-maximisation; with a number, the centres are data points chosen by k-means++.
        objective: "marginal" (Eq. 25 with the full product; bounded below), "inverse_ot" (the paper's Eq. 18) or
            "blend", the pair likelihood plus `blend` times the two corrections that turn it into Eq. 18
            (0 is supervised, 1 is the paper's).
        gauge: "centred" keeps the mean slope over a reference set of x at zero; None is the paper's free gauge.
        epsilon: rescales slopes by 1/ε and covariances by ε; 1 is the natural parametrisation.
        slope_units: "natural" as in the paper, or "target": the net predicts the shift of the mean and is divided by
            the mean variance of f. With narrow conditionals slopes are large, and only the second is learned quickly.
        queue_size: earlier unpaired x that also enter the inner mean of "marginal", without gradient to the cost.
    """

    floor: Tensor
    reference_x: Tensor
    queue: Tensor

    def __init__(
        self,
        x_dim: int,
        y_dim: int,
        num_potential: int = 50,
        num_cost: int = 25,
        slope_hidden: Sequence[int] = (25,),
        weight_hidden: Sequence[int] = (),
        covariance: str = "diagonal",
        covariance_floor: float = 1e-3,
        initial_variance: float | None = 0.1,
        objective: str = "marginal",
        blend: float = 0.5,
        gauge: str | None = "centred",
        epsilon: float = 1.0,
        slope_units: str = "natural",
        queue_size: int = 0,
    ) -> None:
        options = options_of(locals())
        super().__init__()
        self.options = options
        _check(epsilon > 0, f"epsilon={epsilon}: must be positive")
        _check(objective in OBJECTIVES, f"objective={objective!r}: choose one of {', '.join(OBJECTIVES)}")
        _check(gauge in ("centred", None), f"gauge={gauge!r}: choose 'centred' or null")
        _check(slope_units in ("natural", "target"), f"slope_units={slope_units!r}: choose natural or target")
        _check(0 <= blend <= 1, f"blend={blend}: must lie in [0, 1]")
        _check(covariance_floor > 0, f"covariance_floor={covariance_floor}: must be positive")
        self.objective, self.blend, self.gauge, self.epsilon = objective, blend, gauge, epsilon
        self.covariance, self.covariance_floor, self.initial_variance = covariance, covariance_floor, initial_variance
        self.num_cost, self.slope_units = num_cost, slope_units
        self.x_dim, self.y_dim = x_dim, y_dim

        self.weight_net = mlp(x_dim, weight_hidden, num_cost)
        self.slope_net = mlp(x_dim, slope_hidden, num_cost * y_dim)
        last = self.slope_net[-1]
        assert isinstance(last, nn.Linear)
        nn.init.normal_(last.weight, std=0.01)  # slopes near zero: the first conditional is the mixture itself
        nn.init.zeros_(last.bias)
        self.log_w = nn.Parameter(torch.zeros(num_potential))
        self.center = nn.Parameter(torch.randn(num_potential, y_dim))
        self.raw_scale = nn.Parameter(torch.zeros(num_potential, y_dim))
        if rank := _rank(covariance):
            self.factor = nn.Parameter(0.01 * torch.randn(num_potential, y_dim, rank))
        if covariance == "full":
            self.off_diagonal = nn.Parameter(torch.zeros(num_potential, y_dim, y_dim))
        self.register_buffer("floor", torch.full((y_dim,), covariance_floor))  # in units of y²
        self.register_buffer("reference_x", torch.zeros(GAUGE_ROWS, x_dim))
        self.register_buffer("queue", torch.zeros(0, x_dim))
        self.queue_size = queue_size

    # -- parts of the model -------------------------------------------------------------------------------------------

    def potential(self) -> Potential:
        """f, with Σ_n bounded below."""
        return Potential(self.log_w.log_softmax(0), self.center, self._covariance())

    def _covariance(self) -> mixtures.Covariance:
        var = self.epsilon * F.softplus(self.raw_scale) + self.floor
        if self.covariance == "full":
            return mixtures.FullCovariance(self.off_diagonal.tril(-1) + torch.diag_embed(var.sqrt()))
        if self.covariance == "diagonal":
            return mixtures.DiagonalCovariance(var)
        return mixtures.LowRankCovariance(self.factor, var)

    def cost(self, x: Tensor) -> Cost:
        """c(x, ·) at x [B, Dx], gauge fixed."""
        cost = self._raw_cost(x)
        if self.gauge is None:
            return cost
        return inverse_ot.center_slopes(cost, self._raw_cost(self.reference_x))

    def _raw_cost(self, x: Tensor) -> Cost:
        slope = self.slope_net(x).unflatten(-1, (self.num_cost, self.y_dim)) / self.epsilon
        if self.slope_units == "target":
            slope = slope / (self.log_w.softmax(0) @ self._covariance().variance())
        return Cost(self.weight_net(x).log_softmax(-1), slope)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Disjoint groups for two learning rates: "cost" (v, slopes) and "potential" (w, centres, covariances)."""
        cost = [*self.weight_net.parameters(), *self.slope_net.parameters()]
        known = {id(parameter) for parameter in cost}
        return {"cost": cost, "potential": [p for p in self.parameters() if id(p) not in known]}

    @property
    def min_pairs(self) -> int:
        """Fewest training pairs that can hold every component in place: one each when covariances are full."""
        return len(self.center) if self.covariance == "full" else 1

    @torch.no_grad()
    def initialise(self, x: Tensor, y: Tensor, seed: int = 0) -> None:
        """Places the mixture on y [R, Dy], all known targets, and fixes the gauge reference to rows of x [Q, Dx].

        With slopes near zero the conditional is this mixture for every x, so training starts from a density of y.
        """
        check_dimensions(self, x.shape[1], y.shape[1])
        self.reference_x.copy_(x[torch.arange(GAUGE_ROWS) % len(x)])
        self.queue = x[:0].clone()
        self.floor.copy_(self.covariance_floor * y.var(0, correction=0).clamp_min(1e-12))
        fitted = mixtures.fit(
            y, len(self.center), full=self.covariance == "full", floor=float(self.floor.min()), seed=seed
        )
        if self.initial_variance is not None:
            self.center.copy_(fitted.center)
            self.raw_scale.fill_(_inverse_softplus(torch.tensor(self.initial_variance)).item())
            return
        self.log_w.copy_(fitted.log_w)
        self.center.copy_(fitted.center)
        var = fitted.covariance
        if self.covariance == "full":
            scale_tril = torch.linalg.cholesky(fitted.covariance)
            self.off_diagonal.copy_(scale_tril.tril(-1))
            var = scale_tril.diagonal(dim1=-2, dim2=-1).square()
        self.raw_scale.copy_(_inverse_softplus(((var - self.floor) / self.epsilon).clamp_min(1e-4)))

    # -- density and sampler ------------------------------------------------------------------------------------------

    def log_density(self, y: Tensor, x: Tensor) -> Tensor:
        """log π(y_i|x_i) in nats, exact. y [B, Dy], x [B, Dx]. Returns [B]."""
        return inverse_ot.log_density(y, self.potential(), self.cost(x))

    def sample(self, x: Tensor, rng: PerSampleRng | None = None) -> Tensor:
        """One exact draw per row of x [B, Dx]. Returns [B, Dy]."""
        potential = self.potential()
        uniform = standard_uniform(rng, x)
        noise = standard_normal(rng, x, potential.covariance.noise_dim)
        return inverse_ot.sample(potential, self.cost(x), uniform, noise)

    # -- training -----------------------------------------------------------------------------------------------------

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Scalar terms that add up to the objective, on an OT batch of x, y, x_unpaired, y_unpaired."""
        potential = self.potential()
        # One pass of the nets for paired and unpaired conditions.
        both = self.cost(torch.cat([batch["x"], batch["x_unpaired"]]))
        num_pairs = len(batch["x"])
        pair = Cost(both.log_v[:num_pairs], both.slope[:num_pairs])
        unpaired = Cost(both.log_v[num_pairs:], both.slope[num_pairs:])
        if self.objective == "marginal":
            unpaired = self._with_queue(unpaired, batch["x_unpaired"])
            return inverse_ot.marginal_terms(potential, pair, batch["y"], unpaired, batch["y_unpaired"])
        if self.objective == "blend":
            return inverse_ot.blend_terms(potential, pair, batch["y"], unpaired, batch["y_unpaired"], self.blend)
        return inverse_ot.inverse_ot_terms(potential, pair, batch["y"], unpaired, batch["y_unpaired"])

    def _with_queue(self, unpaired: Cost, x: Tensor) -> Cost:
        if not self.queue_size or not self.training:
            return unpaired
        if len(self.queue):
            with torch.no_grad():
                earlier = self.cost(self.queue)
            unpaired = Cost(torch.cat([unpaired.log_v, earlier.log_v]), torch.cat([unpaired.slope, earlier.slope]))
        self.queue = torch.cat([x, self.queue])[: self.queue_size]
        return unpaired

    @torch.no_grad()
    def diagnostics(self, x: Tensor) -> dict[str, Tensor]:
        """What drifts when the objective misleads, at x [B, Dx]: slopes, gauge, variances, logits, components in use.

        ``gauge_drift`` is the length of the mean slope before centring; ``effective_components`` the exponential of the
        entropy of the mixture averaged over x.
        """
        potential, raw = self.potential(), self._raw_cost(self.reference_x)
        cost = self.cost(x)
        log_z = inverse_ot.log_components(potential, cost).flatten(1)
        weights = log_z.softmax(-1).mean(0)
        var = potential.covariance.variance()
        return {
            "slope_max": cost.slope.abs().max(),
            "gauge_drift": inverse_ot.mean_slope(raw).norm(),
            "variance_min": var.min(),
            "variance_max": var.max(),
            "logit_max": log_z.abs().max(),
            "effective_components": torch.exp(-(weights * weights.clamp_min(1e-30).log()).sum()),
        }


def _inverse_softplus(value: Tensor) -> Tensor:
    return value + torch.log(-torch.expm1(-value))


def _rank(covariance: str) -> int:
    """R of "low_rank_R", 0 for the other two."""
    if covariance in ("diagonal", "full"):
        return 0
    name, _, rank = covariance.rpartition("_")
    known = name == "low_rank" and rank.isdigit() and int(rank) > 0
    _check(known, f"covariance={covariance!r}: choose diagonal, full or low_rank_R with a rank R, e.g. low_rank_4")
    return int(rank)


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
