"""The loss that diffusion teachers are trained by."""

from torch import Tensor

from fewstep.diffusion.guidance import Condition, Network
from fewstep.diffusion.predictions import Parametrization
from fewstep.losses import l2


def denoising_losses(
    network: Network,
    parametrization: Parametrization,
    data: Tensor,
    noise: Tensor,
    t: Tensor,
    condition: Condition,
    min_snr_gamma: float | None = None,
) -> Tensor:
    """Squared error [B] of what the network predicts at x_t, for data and noise [B, ...] and times t [B] in [0, 1].

    Ho et al. 2020, Eq. 14; with min_snr_gamma weighted as Hang et al. 2023 (Parametrization.min_snr_weight).
    """
    output = network(parametrization.add_noise(data, noise, t), t, condition)
    losses = l2(output, parametrization.target(data, noise, t))
    return losses if min_snr_gamma is None else parametrization.min_snr_weight(t, min_snr_gamma) * losses
