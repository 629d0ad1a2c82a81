"""Linear Gaussians that need no training: what every flexible method has to beat. All P pairs are fitted."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fewstep.rng import PerSampleRng, standard_normal
from fewstep.transport.gaussian import LinearGaussian, fit_joint, fit_ridge


class ClosedForm(nn.Module):
    """y | x ~ N(weight x + bias, covariance), fitted by `start`; kind "ridge" sees the pairs, "joint" all rows."""

    adam: ClassVar[dict[str, Any]] = {}

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.model: LinearGaussian | None = None

    def start(self, x: Tensor, y: Tensor, x_unpaired: Tensor, y_unpaired: Tensor) -> None:
        self.model = fit_ridge(x, y) if self.kind == "ridge" else fit_joint(x, y, x_unpaired, y_unpaired)

    def log_density(self, y: Tensor, x: Tensor) -> Tensor:
        return self._fitted().log_density(y, x).to(y.dtype)

    def sample(self, x: Tensor, rng: PerSampleRng | None = None) -> Tensor:
        model = self._fitted()
        factor = torch.linalg.cholesky(model.covariance)
        noise = standard_normal(rng, x, len(model.bias)).double()
        return (x.double() @ model.weight.T + model.bias + noise @ factor.T).to(x.dtype)

    def _fitted(self) -> LinearGaussian:
        if self.model is None:
            raise ValueError("the closed form has not been fitted; call start")
        return self.model
