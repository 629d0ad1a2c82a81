"""A hash of all that decides what a base answers: edits are learnt on one base, and nonsense on any other."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fewstep.diffusion.latent_space import LatentSpace
from fewstep.diffusion.predictions import Parametrization
from fewstep.files.weights import weights_sha256


def base_sha256(
    weights: str,
    parametrization: Parametrization,
    latents: LatentSpace | None,
    condition: Mapping[str, Tensor],
    encoders: Mapping[str, str],
) -> str:
    """The first 16 hex digits of a hash of a base's network, schedule, prediction, autoencoder and null condition.

    weights, encoders: hashes of the network and of what makes the condition. As the last digits of what is computed
    differ between machines, a condition is known by its encoders, its shape and whether it is 0, and a schedule by its
    log-SNR at every step to six digits.
    """
    schedule = parametrization.schedule
    steps = schedule.num_train_timesteps
    levels = schedule.log_snr(torch.arange(1, steps + 1, dtype=torch.float64) / steps).tolist()
    told = [weights, parametrization.prediction, *(f"{level:.6g}" for level in levels)]
    if latents is not None:
        autoencoder: nn.Module = latents.autoencoder
        told += [weights_sha256(autoencoder), f"{latents.scale:.6g} {latents.shift:.6g}"]
    told += [f"{name} {tuple(row.shape)} {bool(row.any())}" for name, row in sorted(condition.items())]
    told += [f"{name} {encoder}" for name, encoder in sorted(encoders.items())]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]
