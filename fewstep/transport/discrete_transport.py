"""Inverse entropic OT with a discrete target: semi-supervised classification with an exact normaliser.

    pi(k|x) = exp((f_k - c(x, k)) / epsilon) / Z(x),    Z(x) = sum_k exp((f_k - c(x, k)) / epsilon)

Persiianov et al. (arXiv 2410.02628), with a sum in place of the integral: the costs are outputs of a network, the
potential is one free number per class.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fewstep.rng import PerSampleRng, standard_uniform
from fewstep.transport.dimensions import check_dimensions
from fewstep.transport.mixtures import categorical
from fewstep.transport.networks import mlp, options_of

OBJECTIVES = ("marginal", "inverse_ot")


class DiscreteTransport(nn.Module):
    """Class probabilities from costs c(x, k), outputs of an MLP, and a potential f [K].

    Labels y are [B, 1], as rows of numbers come: whole numbers 0..num_classes-1 of any dtype.

    Args:
        x_dim: Dx.
        num_classes: K.
        hidden: widths of the MLP from x to its K costs; () is linear.
        epsilon: divides cost and potential.
        objective: "marginal" (Eq. 25: the likelihood of the pairs and of the classes' shares; bounded below) or
            "inverse_ot" (the paper's Eq. 18).
        class_prior: known probabilities of the K classes among all x, summing to one. Without it every batch must
            bring labels `y_unpaired`: the marginal of y is never taken to be uniform unless the caller says so.

    pi does not change under (c, f) -> (c + g(x) + h(k), f + h(k)), Eq. 18 on samples does. Costs are therefore
    centred over the classes for every x, the potential over the classes, and Eq. 18 is evaluated where the costs of
    every class also average to zero over `x_unpaired`, so that it cannot fall along g and h. It still falls for ever
    where the network tells the paired x from the unpaired ones: select on held-out likelihood.
    """

    class_prior: Tensor | None
    y_dim = 1
    reference_rows = None  # `initialise` is to see every label

    def __init__(
        self,
        x_dim: int,
        num_classes: int,
        hidden: Sequence[int] = (256, 256),
        epsilon: float = 0.5,
        objective: str = "marginal",
        class_prior: Sequence[float] | None = None,
    ) -> None:
        options = options_of(locals())
        super().__init__()
        self.options = options
        if num_classes < 2:
            raise ValueError(f"num_classes={num_classes}: must be at least 2")
        if not 0 < epsilon < math.inf:
            raise ValueError(f"epsilon={epsilon}: must be positive and finite")
        if objective not in OBJECTIVES:
            raise ValueError(f"objective={objective!r}: choose one of {', '.join(OBJECTIVES)}")
        if class_prior is not None:
            valid = len(class_prior) == num_classes and min(class_prior) >= 0
            if not valid or not math.isclose(sum(class_prior), 1.0, abs_tol=1e-6):
                raise ValueError(f"class_prior must be {num_classes} probabilities summing to one, got {class_prior}")
        self.x_dim, self.num_classes, self.epsilon, self.objective = x_dim, num_classes, epsilon, objective
        self.net = mlp(x_dim, hidden, num_classes)
        self.potential = nn.Parameter(torch.zeros(num_classes))
        self.register_buffer("class_prior", None if class_prior is None else torch.tensor(class_prior))

    def initialise(self, x: Tensor, y: Tensor) -> None:
        """ValueError in one line unless training rows x [Q, Dx] fit and labels y [R, 1] are classes; sets nothing."""
        check_dimensions(self, x.shape[-1], y.shape[-1])
        self.check_labels(y)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The disjoint parameters of c and f."""
        return {"cost": list(self.net.parameters()), "potential": [self.potential]}

    def cost(self, x: Tensor) -> Tensor:
        """c(x, k) [B, K], centred over the classes (x-gauge)."""
        cost = self.net(x)
        return cost - cost.mean(1, keepdim=True)

    def class_log_prob(self, x: Tensor) -> Tensor:
        """log pi(k|x) [B, K] in nats, exact."""
        return ((self._centred_potential() - self.cost(x)) / self.epsilon).log_softmax(1)

    def log_density(self, y: Tensor, x: Tensor) -> Tensor:
        """log pi(y|x) [B] of labels y [B, 1]; ValueError in one line for one that is no class."""
        self.check_labels(y)
        return self.class_log_prob(x).gather(1, y.long()).squeeze(1)

    def sample(self, x: Tensor, rng: PerSampleRng | None = None) -> Tensor:
        """One label per row of x, [B, 1] in the dtype of x."""
        return categorical(self.class_log_prob(x), standard_uniform(rng, x))[:, None].to(x)

    def check_labels(self, y: Tensor) -> None:
        """ValueError in one line for labels [B, 1] that are no classes."""
        wrong = y[~((y >= 0) & (y < self.num_classes) & (y == y.floor()))]
        if len(wrong):
            raise ValueError(
                f"label {wrong[0].item():.9g} is none of the {self.num_classes} classes; give whole numbers from 0 to "
                f"{self.num_classes - 1}, or set num_classes"
            )

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Scalar terms that sum to the objective on {x, y, x_unpaired} and, unless a prior is known, y_unpaired.

        Labels are taken as `initialise` found them: asking once more would wait for the device in every step.
        """
        return self._marginal_terms(batch) if self.objective == "marginal" else self._inverse_ot_terms(batch)

    def _marginal_terms(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """-mean log pi(y|x) - sum_k b_k log mean_q pi(k|x_q), b the shares of the classes (Eq. 25 with a sum)."""
        num_pairs = len(batch["x"])
        log_prob = self.class_log_prob(torch.cat([batch["x"], batch["x_unpaired"]]))
        log_share = log_prob[num_pairs:].logsumexp(0) - math.log(len(batch["x_unpaired"]))
        return {
            "pair": -log_prob[:num_pairs].gather(1, batch["y"].long()).mean(),
            "marginal": -(self._class_shares(batch) * log_share).sum(),
        }

    def _inverse_ot_terms(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Eq. 18; with x_unpaired = x and y_unpaired = y the mean negative log-likelihood of the pairs."""
        pairs, unpaired = self.cost(batch["x"]), self.cost(batch["x_unpaired"])
        level = unpaired.mean(0)  # h(k), removed from c and f alike (y-gauge); pi and Z are as before
        potential = self._centred_potential() - level
        cost = (pairs - level).gather(1, batch["y"].long())
        log_z = ((potential + level - unpaired) / self.epsilon).logsumexp(1)
        return {
            "cost": cost.mean() / self.epsilon,
            "potential": -(self._class_shares(batch) * potential).sum() / self.epsilon,
            "normalizer": log_z.mean(),
        }

    @torch.no_grad()
    def diagnostics(self, x: Tensor) -> dict[str, Tensor]:
        """At x [B, Dx]: the largest cost, which grows as pairs are memorised, and the mean entropy of pi(.|x), nats."""
        log_prob = self.class_log_prob(x)
        return {"cost_max": self.cost(x).abs().max(), "entropy": -(log_prob.exp() * log_prob).sum(1).mean()}

    def _centred_potential(self) -> Tensor:
        return self.potential - self.potential.mean()

    def _class_shares(self, batch: dict[str, Tensor]) -> Tensor:
        """Probabilities [K]: the prior, or the shares of the labels y_unpaired [R, 1]."""
        if self.class_prior is not None:
            return self.class_prior
        if "y_unpaired" not in batch:
            raise ValueError(
                "the marginal of y is unknown: give labels y_unpaired in the batch or class_prior to the model"
            )
        labels = batch["y_unpaired"]
        return (labels == torch.arange(self.num_classes, device=labels.device)).to(self.potential).mean(0)
