"""Solvers of diffusers under the signature of fewstep.diffusion.solvers, on any falling times."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fewstep.choices import require_choice
from fewstep.diffusion.guidance import Condition, Denoiser, GuidanceSchedule, unguided
from fewstep.diffusion.predictions import Parametrization
from fewstep.diffusion.schedules import DiscreteSchedule
from fewstep.diffusion.solvers import time_like

NAMES = {"unipc": "UniPCMultistepScheduler", "diffusers_dpm_solver": "DPMSolverMultistepScheduler"}


class DiffusersSolver:
    """solver(denoiser, parametrization, x, times, condition, guidance) by a multistep scheduler of diffusers.

    name: "unipc" (Zhao et al. 2023) or "diffusers_dpm_solver" (DPM-Solver++, Lu et al. 2022), both of second order and
    otherwise as diffusers has them by default. Times fall to 0 on training steps of a variance-preserving schedule;
    others are moved to the nearest step.
    """

    def __init__(self, name: str) -> None:
        require_choice("solver", name, NAMES)
        self.name = name

    def __call__(
        self,
        denoiser: Denoiser,
        parametrization: Parametrization,
        x: Tensor,
        times: Sequence[float],
        condition: Condition,
        guidance: GuidanceSchedule = unguided,
    ) -> Tensor:
        schedule = parametrization.schedule
        if not isinstance(schedule, DiscreteSchedule):
            raise ValueError(f"{self.name} solves variance-preserving schedules, not {type(schedule).__name__}")
        if times[-1] != 0:
            raise ValueError(f"{self.name} ends in t = 0, not in {times[-1]:g}")
        steps = schedule.timestep(torch.tensor(times[:-1], dtype=torch.float64))
        if not (steps.diff() < 0).all():
            raise ValueError(
                f"{self.name} needs different training steps, but {len(steps)} of them lie between t = 0 and "
                f"{times[0]:g}; take at most {round(times[0] * schedule.num_train_timesteps)}, or dpm_solver"
            )
        scheduler = self._scheduler(schedule, steps)
        for timestep in scheduler.timesteps:
            t = time_like(x, schedule.time_of_timestep(timestep.double()).item())
            data = parametrization.data(x, denoiser(x, t, guidance(t), condition), t)
            x = scheduler.step(data, timestep, x).prev_sample
        return x

    def _scheduler(self, schedule: DiscreteSchedule, steps: Tensor) -> Any:
        """One that is given the data, so that no prediction is known to it; its grid is replaced by these steps."""
        import diffusers

        kind = getattr(diffusers, NAMES[self.name])
        scheduler = kind(trained_betas=schedule.betas(), prediction_type="sample", final_sigmas_type="zero")
        scheduler.set_timesteps(len(steps))
        alpha, sigma = schedule(schedule.time_of_timestep(steps.double()))
        scheduler.sigmas = torch.cat([sigma / alpha, sigma.new_zeros(1)]).float()
        scheduler.timesteps = steps
        return scheduler
