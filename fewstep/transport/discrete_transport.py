"""Inverse entropic OT with a discrete target: semi-supervised classification with an exact normaliser.

    pi(k|x) = exp((f_k - c(x, k)) / epsilon) / Z(x),    Z(x) = sum_k exp((f_k - c(x, k)) / epsilon)

Persiianov et al. (arXiv 2410.02628), Eq. 13 with a sum in place of the integral: the costs are outputs of a network,
the potential is one free number per class.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fewstep.rng import PerSampleRng, standard_uniform
from fewstep.transport.mixtures import categorical


class DiscreteTransport(nn.Module):
    """Class probabilities from costs c(x, k) = net(x)[k] and a potential f [K]; labels are int64 in 0..K-1.

    net: module from x [B, ...] to [B, num_classes]; a lower output is a more likely class.
    class_prior: known probabilities of the K classes among all x, summing to one. Without it every batch must bring
    labels `y_unpaired`: the marginal of y is never taken to be uniform unless the caller says so.

    pi does not change under (c, f) -> (c + g(x) + h(k), f + h(k)), the empirical loss does. Costs are therefore
    centred over the classes for every x, the potential over the classes, and the loss is evaluated where the costs of
    every class also average to zero over `x_unpaired`, so that it cannot fall along g and h.
    """

    class_prior: Tensor | None

    def __init__(
        self, net: nn.Module, num_classes: int, epsilon: float = 0.5, class_prior: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        if epsilon <= 0:
            raise ValueError(f"epsilon must be positive, got {epsilon}")
        if class_prior is not None:
            valid = len(class_prior) == num_classes and min(class_prior) >= 0
            if not valid or not math.isclose(sum(class_prior), 1.0, abs_tol=1e-6):
                raise ValueError(f"class_prior must be {num_classes} probabilities summing to one, got {class_prior}")
        self.net, self.num_classes, self.epsilon = net, num_classes, epsilon
        self.potential = nn.Parameter(torch.zeros(num_classes))
        self.register_buffer("class_prior", None if class_prior is None else torch.tensor(class_prior))

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The disjoint parameters of c and f."""
        return {"cost": list(self.net.parameters()), "potential": [self.potential]}

    def cost(self, x: Tensor) -> Tensor:
        """c(x, k) [B, K], centred over the classes (x-gauge)."""
        cost = self.net(x)
        return cost - cost.mean(1, keepdim=True)

    def log_prob(self, x: Tensor) -> Tensor:
        """log pi(k|x) [B, K] in nats, exact."""
        return ((self._centred_potential() - self.cost(x)) / self.epsilon).log_softmax(1)

    def log_density(self, y: Tensor, x: Tensor) -> Tensor:
        """log pi(y|x) [B] of labels y [B]."""
        return self.log_prob(x).gather(1, y[:, None]).squeeze(1)

    def sample(self, x: Tensor, rng: PerSampleRng | None = None) -> Tensor:
        """One label [B] per row of x."""
        return categorical(self.log_prob(x), standard_uniform(rng, x))

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Three terms that sum to the loss (18) on {x, y, x_unpaired} and, unless a prior is known, y_unpaired [R].

        With x_unpaired = x and y_unpaired = y the sum is the mean negative log-likelihood of the pairs.
        """
        pairs, unpaired = self.cost(batch["x"]), self.cost(batch["x_unpaired"])
        level = unpaired.mean(0)  # h(k), removed from c and f alike (y-gauge); pi and Z are as before
        potential = self._centred_potential() - level
        cost = (pairs - level).gather(1, batch["y"][:, None])
        log_z = ((potential + level - unpaired) / self.epsilon).logsumexp(1)
        return {
            "cost": cost.mean() / self.epsilon,
            "potential": -(self._class_frequencies(batch) * potential).sum() / self.epsilon,
            "normalizer": log_z.mean(),
        }

    def _centred_potential(self) -> Tensor:
        return self.potential - self.potential.mean()

    def _class_frequencies(self, batch: dict[str, Tensor]) -> Tensor:
        if self.class_prior is not None:
            return self.class_prior
        if "y_unpaired" not in batch:
            raise ValueError(
                "the marginal of y is unknown: give labels y_unpaired in the batch or class_prior to the model"
            )
        labels = batch["y_unpaired"]
        return torch.bincount(labels, minlength=self.num_classes).to(self.potential) / len(labels)
