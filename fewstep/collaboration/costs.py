"""What a picture costs, in passes of the teacher's network: a step, a draft, the decoder and the oracle."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fewstep.backbones import LatentDiffusion, has_guidance_embedding
from fewstep.collaboration.policy import Policy
from fewstep.collaboration.student import Student
from fewstep.collaboration.teacher import Teacher
from fewstep.diffusion.guidance import Denoiser
from fewstep.diffusion.solvers import time_like
from fewstep.distillation.students import unscaled


@dataclass(frozen=True)
class Costs:
    """In passes of the teacher's network for one picture; flops: of such a pass.

    draft: one of the student, all its steps. look: of the oracle at a picture, with the decoder that it needs. repair:
    all steps of the teacher. decode: of the picture that is returned, where the oracle has not had it decoded. encode:
    of a picture that is edited, once. A control network's passes are part of those that it accompanies.
    """

    draft: float
    look: float
    repair: float
    decode: float
    flops: float
    encode: float = 0.0

    @property
    def judged_draft(self) -> float:
        return self.draft + self.look

    def of_repair(self, looked_at: bool) -> float:
        """One picture of the teacher; looked_at: by the oracle, too."""
        return self.repair + (self.look if looked_at else self.decode)

    def of_pictures(self, drafts: Tensor, repaired: Tensor, policy: Policy) -> Tensor:
        """float64 [B]; drafts: int64 [B], how many were drawn. repaired: bool [B]."""
        repairs = repaired.double() * self.of_repair(policy.keep_best)
        return self.encode + drafts.double() * self.judged_draft + repairs


@torch.no_grad()
def measured_costs(
    student: Student, student_steps: int, teacher: Teacher, oracle: Any, asked: Any, edits: bool = False
) -> Costs:
    """Counted in FLOPs of matrix products and convolutions, as torch counts them: what one picture more takes.

    asked: an example of what the oracle is told. edits: pictures are given, and encoded. What is done once for a batch,
    as merging an adapter is, counts not.
    """
    model = teacher.model

    def rows(num: int) -> tuple[Tensor, Tensor]:
        device = next(model.network.parameters()).device
        noise = torch.zeros(num, model.latents.channels, *model.sample_size, device=device)
        return noise, time_like(noise, 0.5)

    def pass_of(denoiser: Denoiser, model: LatentDiffusion, num: int) -> None:
        noise, t = rows(num)
        shown = None if model.control is None else noise.new_zeros(1, 3, *model.image_size)
        told = model.condition([""], shown)
        denoiser(noise, t, torch.ones_like(t), {k: v.expand(num, *v.shape[1:]) for k, v in told.items()})

    bare = replace(model, control=None)
    network = _one_more(lambda num: pass_of(_one_row(bare), bare, num))
    controlled = _one_more(lambda num: pass_of(_one_row(model), model, num))
    drafting = _one_more(lambda num: pass_of(student.denoiser, student.model, num))
    decoding = _one_more(lambda num: model.latents.decode(rows(num)[0]))
    image = model.latents.decode(rows(1)[0])
    looking = _one_more(lambda num: oracle(image.expand(num, -1, -1, -1), [asked] * num))
    encoding = _one_more(lambda num: model.latents.encode(image.expand(num, -1, -1, -1))) if edits else 0.0
    return Costs(
        student_steps * drafting / network,
        (looking + decoding) / network,
        teacher.passes * controlled / network,
        decoding / network,
        network,
        encoding / network,
    )


def _one_row(model: LatentDiffusion) -> Denoiser:
    """Its network without classifier-free guidance, which asks it twice."""
    if has_guidance_embedding(model.network):
        return model.denoiser()
    return unscaled(model.network, model.parametrization.schedule, model.control)


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
