"""What a network says about x_t = alpha_t data + sigma_t noise, and the deterministic jump that it allows.

"eps": the noise. "x0": the data. "v": alpha noise - sigma data (Salimans and Ho 2022). "velocity": noise - data
(rectified flow). Each fixes, together with x_t, both data and noise, so each is as good as another wherever neither
alpha_t nor sigma_t vanishes. At sigma_t = 0, "x0" leaves the noise open, at alpha_t = 0, "eps" the data: division by
zero then gives infinities; `Parametrization.check` finds such times before training.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from fewstep.diffusion.schedules import RectifiedFlow, Schedule, add_noise, per_sample, schedule_of_config

Prediction = Literal["eps", "x0", "v", "velocity"]
Levels = tuple[Tensor, Tensor] | tuple[float, float]  # (alpha, sigma), each [B]
_FOREIGN: dict[str, Prediction] = {"epsilon": "eps", "sample": "x0", "v_prediction": "v", "flow_prediction": "velocity"}


@dataclass(frozen=True)
class Parametrization:
    """A schedule and what the network predicts on it."""

    schedule: Schedule
    prediction: Prediction

    def __post_init__(self) -> None:
        if self.prediction not in get_args(Prediction):
            known = ", ".join(get_args(Prediction))
            raise ValueError(f"prediction {self.prediction!r} is unknown; choose one of {known}")

    def jump(self, x: Tensor, output: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """x_t -> x_s [B, ...], one DDIM step to more noise or less: alpha_s data + sigma_s noise of the output.

        Song et al. 2021 (DDIM), Eq. 12 with eta = 0; Starodubcev et al. 2024 (iCD), Eq. 3.
        x, output: [B, ...]; t, s: [B] or scalar tensors.
        Linear in (x, output); exactly x where s = t. Half-precision x and output give a float32 answer.
        """
        skip, out = self.coefficients(t, s)
        return per_sample(skip, x) * x + per_sample(out, x) * output

    def coefficients(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """(c_skip, c_out), each shaped like t and s: jump = c_skip x + c_out output."""
        return _coefficients(self.prediction, self.schedule(t), self.schedule(s))

    def data(self, x: Tensor, output: Tensor, t: Tensor) -> Tensor:
        """The data [B, ...] that the output stands for."""
        return output if self.prediction == "x0" else self._part(x, output, t, (1.0, 0.0))

    def noise(self, x: Tensor, output: Tensor, t: Tensor) -> Tensor:
        """The noise [B, ...] that the output stands for."""
        return output if self.prediction == "eps" else self._part(x, output, t, (0.0, 1.0))

    def _part(self, x: Tensor, output: Tensor, t: Tensor, levels: tuple[float, float]) -> Tensor:
        skip, out = _coefficients(self.prediction, self.schedule(t), levels)
        return per_sample(skip, x) * x + per_sample(out, x) * output

    def target(self, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What a perfect network answers where x_t was made of this data and this noise, [B, ...]."""
        if self.prediction in ("eps", "x0"):
            return noise if self.prediction == "eps" else data
        if self.prediction == "velocity":
            return noise - data
        alpha, sigma = self.schedule(t)
        return per_sample(alpha, data) * noise - per_sample(sigma, data) * data

    def convert(self, output: Tensor, x: Tensor, t: Tensor, prediction: Prediction) -> Tensor:
        """The same answer as another kind of prediction, [B, ...]."""
        other = Parametrization(self.schedule, prediction)
        return other.target(self.data(x, output, t), self.noise(x, output, t), t)

    def add_noise(self, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t [B, ...]."""
        return add_noise(self.schedule, data, noise, t)

    def min_snr_weight(self, t: Tensor, gamma: float = 5.0) -> Tensor:
        """Weight of a sample's squared error of the output, [B]: min(SNR, gamma) times that of the data it implies.

        Hang et al. 2023 (Min-SNR): min(SNR, gamma) / SNR for "eps", min(SNR, gamma) / (SNR + 1) for "v".
        """
        alpha, sigma = self.schedule(t)
        snr = (alpha / sigma).square()  # infinite at t = 0
        if self.prediction == "eps":
            return (gamma / snr).clamp(max=1)
        if self.prediction == "x0":
            return snr.clamp(max=gamma)
        _, out = _coefficients(self.prediction, (alpha, sigma), (1.0, 0.0))
        return snr.clamp(max=gamma) * out.square()

    def check(self, times: list[float] | tuple[float, ...]) -> None:
        """ValueError in one line if the network is to be asked at a time where its answer fixes nothing."""
        alpha, sigma = self.schedule(torch.tensor(times, dtype=torch.float64))
        for time, signal, spread in zip(times, alpha.tolist(), sigma.tolist(), strict=True):
            if self.prediction == "x0" and spread < 1e-6:
                raise ValueError(
                    f'"x0" says nothing of the noise at t = {time:g}; start later, at 0.02, or predict "v"'
                )
            if self.prediction == "eps" and signal < 1e-6:
                raise ValueError(f'"eps" says nothing of the data at t = {time:g}; start earlier, or predict "v"')


def parametrization_of_config(config: Mapping[str, Any]) -> Parametrization:
    """Schedule and prediction of a diffusers scheduler's `config`; flow-match configs name no prediction."""
    schedule = schedule_of_config(config)
    usual = "flow_prediction" if isinstance(schedule, RectifiedFlow) else "epsilon"
    name = config.get("prediction_type") or usual
    if name not in _FOREIGN:
        raise ValueError(f"prediction_type {name!r} is unknown; choose one of {', '.join(_FOREIGN)}")
    return Parametrization(schedule, _FOREIGN[name])


def _coefficients(prediction: Prediction, source: tuple[Tensor, Tensor], end: Levels) -> tuple[Tensor, Tensor]:
    """(c_skip, c_out): end_alpha data + end_sigma noise = c_skip x_t + c_out output; exactly (1, 0) if source = end."""
    (alpha, sigma), (end_alpha, end_sigma) = source, end
    if prediction == "eps":
        skip = end_alpha / alpha
        return skip, end_sigma - skip * sigma
    if prediction == "x0":
        skip = end_sigma / sigma
        return skip, end_alpha - skip * alpha
    if prediction == "v":
        square = alpha * alpha + sigma * sigma
        return (end_alpha * alpha + end_sigma * sigma) / square, (end_sigma * alpha - end_alpha * sigma) / square
    total = alpha + sigma
    return (end_alpha + end_sigma) / total, (end_sigma * alpha - end_alpha * sigma) / total
