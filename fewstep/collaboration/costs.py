"""What a picture costs, in passes of the teacher's network: a step, a draft, the decoder and the oracle."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from fewstep.backbones import has_guidance_embedding
from fewstep.collaboration.student import Student
from fewstep.collaboration.teacher import Teacher
from fewstep.diffusion.solvers import time_like


@dataclass(frozen=True)
class Costs:
    """In passes of the teacher's network for one picture; flops: of such a pass.

    draft: one of the student, all its steps. look: of the oracle at a picture, with the decoder that it needs. repair:
    all steps of the teacher. decode: of the picture that is returned, where the oracle has not had it decoded.
    """

    draft: float
    look: float
    repair: float
    decode: float
    flops: float

    @property
    def judged_draft(self) -> float:
        return self.draft + self.look


@torch.no_grad()
def measured_costs(student: Student, student_steps: int, teacher: Teacher, oracle: Any, asked: Any) -> Costs:
    """Counted in FLOPs of matrix products and convolutions, as torch counts them, for one picture of what is asked."""
    model = teacher.model
    device = next(model.network.parameters()).device
    noise = torch.zeros(1, model.latents.channels, *model.sample_size, device=device)
    condition, t = model.prompts([""]), time_like(noise, 0.5)
    scale = torch.ones_like(t)
    embedded = has_guidance_embedding(model.network)
    one_row = Teacher(model, 1, 1.0, "ddim").denoiser if not embedded else model.denoiser()
    network = _flops(lambda: one_row(noise, t, scale, condition))
    own = student.model.prompts([""])
    drafting = _flops(lambda: student.denoiser(noise, t, scale, own))
    decoding = _flops(lambda: model.latents.decode(noise))
    image = model.latents.decode(noise)
    looking = _flops(lambda: oracle(image, [asked]))
    return Costs(
        student_steps * drafting / network,
        (looking + decoding) / network,
        float(teacher.passes),
        decoding / network,
        network,
    )


def _flops(run: Callable[[], Any]) -> float:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())
