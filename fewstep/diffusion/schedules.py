"""Noise schedules: x_t = alpha_t data + sigma_t noise, with t in [0, 1], 0 = data and 1 = noise.

Every schedule is a callable `t -> (alpha_t, sigma_t)` with `log_snr(t)` = 2 ln(alpha_t / sigma_t), its inverse
`time(log_snr)`, and `timestep(t)`, what a diffusers network of that kind takes for t. Times are float32 or float64, of
any shape; answers have the shape, dtype and device of t.

The discrete training step k = 0..N-1 is t = (k + 1) / N, so that t = 0 is the data itself (alpha 1, sigma 0) and the
grid 19, 39, .., 999 of 50 steps is 0.02, 0.04, .., 1. Between steps ln(alpha_t^2) is interpolated linearly: that is the
variance-preserving SDE (Song et al. 2021, Eq. 11) with beta(t) constant in each step.
"""

import math
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F


class Schedule(Protocol):
    """What samplers and losses need of a schedule; see the head of this file."""

    num_train_timesteps: int

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]: ...
    def log_snr(self, t: Tensor) -> Tensor: ...
    def time(self, log_snr: Tensor) -> Tensor: ...
    def timestep(self, t: Tensor) -> Tensor: ...


class DiscreteSchedule:
    """Variance-preserving schedule of N training steps, beta_schedule named as in diffusers.

    beta_schedule: "scaled_linear" (Stable Diffusion), "linear" (DDPM) or "squaredcos_cap_v2" (improved DDPM, which
    ignores beta_start and beta_end). betas: the N values themselves, each in [0, 1), instead of a name.
    """

    def __init__(
        self,
        beta_schedule: str = "scaled_linear",
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        num_train_timesteps: int = 1000,
        betas: list[float] | None = None,
    ) -> None:
        values = _betas(beta_schedule, beta_start, beta_end, num_train_timesteps) if betas is None else betas
        steps = torch.as_tensor(values, dtype=torch.float64)
        if steps.dim() != 1 or not len(steps) or not bool(((steps >= 0) & (steps < 1)).all()):
            raise ValueError(f"betas must be numbers in [0, 1), got {values}; rescaled to zero SNR needs another class")
        self.num_train_timesteps = len(steps)
        log_alpha_bar = torch.cat([steps.new_zeros(1), torch.log1p(-steps).cumsum(0)])  # [N + 1], of t = k / N
        self._tables = {(steps.device, steps.dtype): log_alpha_bar}

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        log_alpha_bar = self._log_alpha_bar(t)
        return (log_alpha_bar / 2).exp(), (-torch.expm1(log_alpha_bar)).sqrt()

    def log_snr(self, t: Tensor) -> Tensor:
        """ln(alpha_t^2 / sigma_t^2); infinite at t = 0."""
        log_alpha_bar = self._log_alpha_bar(t)
        return log_alpha_bar - (-torch.expm1(log_alpha_bar)).log()

    def time(self, log_snr: Tensor) -> Tensor:
        """The t of a log-SNR, clamped to [0, 1]."""
        falling = F.softplus(-log_snr)  # -ln(alpha_t^2), rises with t
        nodes = -self._table(log_snr)
        right = torch.searchsorted(nodes, falling.contiguous()).clamp(1, self.num_train_timesteps)
        left = nodes[right - 1]
        share = (falling - left) / (nodes[right] - left)
        return ((right - 1 + share) / self.num_train_timesteps).clamp(0, 1)

    def timestep(self, t: Tensor) -> Tensor:
        """The nearest training step, int64 in 0..N-1; of t = 0, which networks were never trained on, step 0."""
        return (t * self.num_train_timesteps).round().long().sub(1).clamp(min=0)

    def time_of_timestep(self, timestep: Tensor) -> Tensor:
        """Training step 0..N-1 (-1 is the data) -> t, in float32 if the steps are integers."""
        steps = timestep if timestep.is_floating_point() else timestep.float()
        return (steps + 1) / self.num_train_timesteps

    def betas(self) -> list[float]:
        """The N values, as `betas` takes them."""
        return (-torch.expm1(self._tables[torch.device("cpu"), torch.float64].diff())).tolist()

    def _log_alpha_bar(self, t: Tensor) -> Tensor:
        place = (_times(t) * self.num_train_timesteps).clamp(0, self.num_train_timesteps)
        left = place.floor().clamp(max=self.num_train_timesteps - 1)
        table, node = self._table(t), left.long()
        return torch.lerp(table[node], table[node + 1], place - left)

    def _table(self, like: Tensor) -> Tensor:
        """The table on the device and in the dtype of a tensor, copied there once."""
        key = (like.device, like.dtype)
        if key not in self._tables:
            self._tables[key] = self._tables[torch.device("cpu"), torch.float64].to(like)
        return self._tables[key]


class RectifiedFlow:
    """alpha = 1 - u, sigma = u with u = shift t / (1 + (shift - 1) t).

    Liu et al. 2023 (rectified flow); Esser et al. 2024 (Stable Diffusion 3), Eq. 23. The shift only moves the grid of
    times: an even grid in t is diffusers' shifted grid of sigmas.
    """

    def __init__(self, shift: float = 1.0, num_train_timesteps: int = 1000) -> None:
        if not shift > 0:
            raise ValueError(f"shift must be positive, got {shift}; 1 is the unshifted flow, 3 that of SD3")
        self.shift, self.num_train_timesteps = shift, num_train_timesteps

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        sigma = self._shifted(t)
        return 1 - sigma, sigma

    def _shifted(self, t: Tensor) -> Tensor:
        return self.shift * _times(t) / (1 + (self.shift - 1) * t)

    def log_snr(self, t: Tensor) -> Tensor:
        """Infinite at both ends."""
        alpha, sigma = self(t)
        return 2 * (alpha / sigma).log()

    def time(self, log_snr: Tensor) -> Tensor:
        sigma = torch.sigmoid(-log_snr / 2)
        return sigma / (self.shift - (self.shift - 1) * sigma)

    def timestep(self, t: Tensor) -> Tensor:
        """1000 sigma, a float: what flow networks of diffusers take."""
        return self.num_train_timesteps * self._shifted(t)


def schedule_of_config(config: Mapping[str, Any]) -> DiscreteSchedule | RectifiedFlow:
    """The schedule of a diffusers scheduler's `config`. ValueError for one that is neither VP nor rectified flow."""
    steps = int(config.get("num_train_timesteps", 1000))
    if "beta_schedule" in config:
        if config.get("rescale_betas_zero_snr"):
            raise ValueError("rescale_betas_zero_snr=True is not supported: set it to False in the scheduler config")
        betas = config.get("trained_betas")
        ends = (float(config["beta_start"]), float(config["beta_end"]))
        return DiscreteSchedule(config["beta_schedule"], *ends, steps, None if betas is None else list(betas))
    if config.get("use_dynamic_shifting"):
        raise ValueError("use_dynamic_shifting=True shifts the schedule by the size of the picture: not supported here")
    if "shift" in config:
        return RectifiedFlow(float(config["shift"]), steps)
    name = config.get("_class_name", "this scheduler")
    raise ValueError(f"{name} has neither beta_schedule nor shift; use the config of a DDIM or flow-match scheduler")


def training_times(schedule: Schedule, uniform: Tensor) -> Tensor:
    """The time [B] of one of the N training steps for each uniform draw on [0, 1), each as likely."""
    steps = schedule.num_train_timesteps
    return ((uniform * steps).floor().clamp(max=steps - 1) + 1) / steps


def add_noise(schedule: Schedule, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """alpha_t data + sigma_t noise [B, ...] for data, noise [B, ...] and t [B]."""
    alpha, sigma = schedule(t)
    return per_sample(alpha, data) * data + per_sample(sigma, data) * noise


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """[B] -> [B, 1, .., 1], or a scalar -> [1, 1, .., 1], with as many dimensions as `like` [B, ...]."""
    return values.reshape(-1, *[1] * (like.dim() - 1))


def _times(t: Tensor) -> Tensor:
    if t.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"times are float32 or float64 in [0, 1], got {t.dtype}; see time_of_timestep for steps")
    return t


def _betas(name: str, start: float, end: float, steps: int) -> Tensor:
    if name == "scaled_linear":
        return torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64).square()
    if name == "linear":
        return torch.linspace(start, end, steps, dtype=torch.float64)
    if name == "squaredcos_cap_v2":
        angle = (torch.linspace(0, 1, steps + 1, dtype=torch.float64) + 0.008) / 1.008 * math.pi / 2
        alpha_bar = angle.cos().square()
        return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999)
    raise ValueError(f'beta_schedule {name!r} is unknown; choose "scaled_linear", "linear" or "squaredcos_cap_v2"')
