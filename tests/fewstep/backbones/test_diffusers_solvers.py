"""Against the plain loops of diffusers, the exact flow of Gaussian data, and our own solver of the same name."""

from functools import partial

import pytest
import torch
from diffusers import UniPCMultistepScheduler

from fewstep.backbones.diffusers_solvers import DiffusersSolver
from fewstep.diffusion.predictions import Parametrization
from fewstep.diffusion.schedules import DiscreteSchedule, RectifiedFlow
from fewstep.diffusion.solvers import dpm_solver, even_times
from tests.fewstep.diffusion.test_solvers import STD, exact, gaussian, normal

SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
EPS, V = (Parametrization(DiscreteSchedule(), kind) for kind in ("eps", "v"))


@pytest.mark.parametrize("num_steps", [1, 3, 20])
def test_unipc_is_the_loop_of_diffusers(num_steps):
    scheduler = UniPCMultistepScheduler(**SCHEDULE, timestep_spacing="trailing")
    scheduler.set_timesteps(num_steps)
    started = x = normal(4, 3).float()
    for timestep in scheduler.timesteps:
        t = EPS.schedule.time_of_timestep(timestep).expand(4)
        x = scheduler.step(gaussian(EPS, STD, x, t, None, {}), timestep, x).prev_sample
    ours = DiffusersSolver("unipc")(partial(gaussian, EPS, STD), EPS, started, even_times(num_steps, 1.0, 0.0), {})
    torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("parametrization", [EPS, V], ids=["eps", "v"])
def test_from_any_time_on_the_dpm_solvers_agree_and_unipc_nears_the_exact_flow(parametrization):
    """As the teacher goes on from a draft: from 0.6, in steps of no grid of diffusers' own."""
    started, times = normal(4, 3), even_times(12, 0.6, 0.0)
    denoiser = partial(gaussian, parametrization, STD)
    theirs = DiffusersSolver("diffusers_dpm_solver")(denoiser, parametrization, started, times, {})
    ours = dpm_solver(denoiser, parametrization, started, times, {})
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4)
    unipc = DiffusersSolver("unipc")(denoiser, parametrization, started, times, {})
    truth = exact(parametrization, started, 0.6, 0.0)
    assert (unipc - truth).abs().mean() < 0.05 * (started - truth).abs().mean()


def test_what_they_cannot_solve_is_said():
    with pytest.raises(ValueError, match="solver='euler': choose one of unipc, diffusers_dpm_solver"):
        DiffusersSolver("euler")
    flow, x = Parametrization(RectifiedFlow(), "velocity"), normal(4, 3)
    with pytest.raises(ValueError, match="unipc solves variance-preserving schedules, not RectifiedFlow"):
        DiffusersSolver("unipc")(partial(gaussian, flow, STD), flow, x, (1.0, 0.0), {})
    with pytest.raises(ValueError, match=r"different training steps, but 25 of them .* and 0\.01; take at most 10"):
        DiffusersSolver("unipc")(partial(gaussian, EPS, STD), EPS, x, even_times(25, 0.01, 0.0), {})
    with pytest.raises(ValueError, match=r"unipc ends in t = 0, not in 0\.5"):
        DiffusersSolver("unipc")(partial(gaussian, EPS, STD), EPS, x, (1.0, 0.5), {})
