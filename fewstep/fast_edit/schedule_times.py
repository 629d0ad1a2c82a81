"""Times of fast editing are those of DDPM's linear schedule, as its papers tell them, whatever the base's own is."""

from collections.abc import Sequence

import torch

from fewstep.choices import require_range
from fewstep.diffusion.schedules import DiscreteSchedule
from fewstep.fast_edit.edit_base import EditBase

DDPM = DiscreteSchedule("linear", 1e-4, 0.02)  # Ho et al. 2020, section 4: 1000 steps


def base_times(base: EditBase, times: Sequence[float]) -> tuple[float, ...]:
    """Times of the base with the same sigma / alpha as these times, in [0, 1], have on DDPM's linear schedule.

    On a discrete schedule the nearest ones that the network was trained at, so that alpha and sigma are those of the
    step that it is told; 0 alone is 0. More noise than the base knows is its last time. ValueError in one line.
    """
    for time in times:
        require_range("times", time, 0, 1)
    schedule = base.parametrization.schedule
    found = schedule.time(DDPM.log_snr(torch.tensor(times, dtype=torch.float64)))
    if isinstance(schedule, DiscreteSchedule):
        steps = schedule.num_train_timesteps
        found = (found * steps).round().clamp(min=1) / steps
    return tuple(place if time else 0.0 for time, place in zip(times, found.tolist(), strict=True))
