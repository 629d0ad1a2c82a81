"""What a picture costs, in passes of the teacher's network: a step, a draft, the decoder and the oracle."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fewstep.backbones import has_guidance_embedding
from fewstep.collaboration.student import Student
from fewstep.collaboration.teacher import Teacher
from fewstep.diffusion.guidance import Denoiser
from fewstep.diffusion.prompt_encoder import Prompts
from fewstep.diffusion.solvers import time_like
from fewstep.distillation.students import unscaled


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
    """Counted in FLOPs of matrix products and convolutions, as torch counts them: what one picture more takes.

    asked: an example of what the oracle is told. What is done once for a batch, as merging an adapter is, counts not.
    """
    model = teacher.model
    embedded = has_guidance_embedding(model.network)
    alone = model.denoiser() if embedded else unscaled(model.network, model.parametrization.schedule)

    def rows(num: int) -> tuple[Tensor, Tensor]:
        device = next(model.network.parameters()).device
        noise = torch.zeros(num, model.latents.channels, *model.sample_size, device=device)
        return noise, time_like(noise, 0.5)

    def pass_of(denoiser: Denoiser, prompts: Prompts, num: int) -> None:
        noise, t = rows(num)
        denoiser(noise, t, torch.ones_like(t), {k: v.expand(num, *v.shape[1:]) for k, v in prompts([""]).items()})

    network = _one_more(lambda num: pass_of(alone, model.prompts, num))
    drafting = _one_more(lambda num: pass_of(student.denoiser, student.model.prompts, num))
    decoding = _one_more(lambda num: model.latents.decode(rows(num)[0]))
    image = model.latents.decode(rows(1)[0])
    looking = _one_more(lambda num: oracle(image.expand(num, -1, -1, -1), [asked] * num))
    return Costs(
        student_steps * drafting / network,
        (looking + decoding) / network,
        float(teacher.passes),
        decoding / network,
        network,
    )


def _one_more(run: Callable[[int], Any]) -> float:
    return _flops(lambda: run(2)) - _flops(lambda: run(1))


def _flops(run: Callable[[], Any]) -> float:
    from torch.utils.flop_counter import FlopCounterMode

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it is not counted
    try:
        with FlopCounterMode(display=False) as counter:
            run()
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return float(counter.get_total_flops())
