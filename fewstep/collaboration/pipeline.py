"""Pictures of prompts by student, oracle and teacher, for a budget of network passes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.backbones import has_guidance_embedding, load_control, load_latent_diffusion
from fewstep.collaboration.calibration import Calibration
from fewstep.collaboration.cascade import Cascade, Collaborated, Oracle
from fewstep.collaboration.costs import Costs, measured_costs
from fewstep.collaboration.given import Pictures
from fewstep.collaboration.oracles import load_oracle
from fewstep.collaboration.policy import Policy
from fewstep.collaboration.rehearsal import Rehearsal
from fewstep.collaboration.rollback import EditStrength
from fewstep.collaboration.student import Student, is_export, load_a_student
from fewstep.collaboration.teacher import Teacher
from fewstep.picture_size import Size


@dataclass(frozen=True)
class Collaboration:
    """A cascade, what it costs, and what is known of it.

        pipe = Collaboration.from_pretrained("RUN/export", oracle="image_reward", calibration="calibration.json")
        result = pipe(["a cat on a mat"], seeds=[0], mean_passes=10)

    result: see Collaborated; `passes` tells what each picture took.
    """

    cascade: Cascade
    costs: Costs
    calibration: Calibration | None = None

    @classmethod
    def from_pretrained(
        cls,
        student: str | Path,
        teacher: str | Path | None = None,
        oracle: str | Oracle = "image_reward",
        calibration: str | Path | Calibration | None = None,
        *,
        student_network: str | None = None,
        student_steps: int = 4,
        student_scale: float | None = None,
        teacher_steps: int = 10,
        teacher_scale: float = 8.0,
        solver: str = "dpm_solver",
        batch_size: int = 32,
        asked: Any = "",
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        image_size: Size | None = None,
        edit: EditStrength | None = None,
        control: str | Path | None = None,
    ) -> "Collaboration":
        """student: see load_a_student. teacher: pipeline, by folder or hub id; None for that which an export names.

        oracle: see load_oracle, or any callable (images, what is asked) -> [B]. calibration: of `calibrate`, or its
        file, refused if it is of another cascade. student_network: in the place of a pipeline's own. student_scale:
        None for the largest that it knows. asked: an example of what the oracle is told, where that is no prompt; its
        cost is counted once. edit: how far pictures are taken back that are given to be edited. control: folder or hub
        id of a ControlNet or T2I-Adapter for both networks.
        """
        if teacher is None and not is_export(student):
            raise ValueError(f"{student} is a pipeline that names no teacher: give the teacher that repairs its drafts")
        known = Calibration.load(calibration) if isinstance(calibration, str | Path) else calibration  # before networks
        beside = None if control is None else load_control(control, dtype)
        drafts = load_a_student(
            student, None, student_network, dtype, device=device, image_size=image_size, control=beside
        )
        model = drafts.model
        if teacher is not None:
            model = load_latent_diffusion(teacher, None, dtype, model.image_size, beside).to(device)
        judge = load_oracle(oracle) if isinstance(oracle, str) else oracle
        if isinstance(judge, nn.Module):
            judge.to(device)
        draws = largest_scale(drafts) if student_scale is None else student_scale
        repairs = Teacher(model, teacher_steps, teacher_scale, solver)
        cascade = Cascade(drafts, repairs, judge, student_steps, draws, batch_size, edit)
        if known is not None:
            known.check(cascade)
            return cls(cascade, known.costs, known)
        return cls(cascade, measured_costs(drafts, student_steps, repairs, judge, asked, edit is not None))

    def __call__(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int | str],
        mean_passes: float | None = None,
        k: float | None = None,
        policy: Policy | None = None,
        asked: Sequence[Any] | None = None,
        sources: Pictures | None = None,
        controls: Pictures | None = None,
    ) -> Collaborated:
        """Pictures of prompts. Give mean_passes, of a picture on average, or k, per cent that are repaired, or policy.

        seeds: see Cascade. asked: what the oracle is told in place of the prompts. sources, controls: [B, 3, H, W] in
        [-1, 1], the pictures that `edit` is for, and those that `control` reads.
        """
        return self.cascade(prompts, seeds, self.chosen(mean_passes, k, policy), asked, sources, controls)

    def chosen(self, mean_passes: float | None = None, k: float | None = None, policy: Policy | None = None) -> Policy:
        """The policy of a budget; ValueError in one line where none or several are given, or no repair can be made."""
        if sum(value is not None for value in (mean_passes, k, policy)) != 1:
            raise ValueError("give one of mean_passes, k and policy: how much the teacher shall improve")
        if policy is None:
            if self.calibration is None:
                raise ValueError("mean_passes and k need a calibration: make one, or give a policy with a threshold")
            policy = self.calibration.policy(mean_passes, k)
        if policy.repair == "refine" and policy.threshold > -math.inf:
            self.cascade.check_rollback(policy.rollback)
        return policy

    def passes(self, result: Collaborated, policy: Policy) -> Tensor:
        """Of the teacher's network, the oracle and the decoder as their share, [B]."""
        return self.costs.of_pictures(result.drafts, result.repaired, policy)

    def calibrated(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int | str],
        policy: Policy | None = None,
        asked: Sequence[Any] | None = None,
        sources: Pictures | None = None,
        controls: Pictures | None = None,
    ) -> "Collaboration":
        """The same, with what drafts for these prompts tell; policy: how drafts are drawn and repaired.

        policy None asks the teacher, too, and lets every budget choose that with the best expected score.
        """
        repairs = policy is None  # are played then alone
        rehearsal = Rehearsal(self.cascade, prompts, seeds, asked, None, sources, controls, keep_latents=repairs)
        return replace(self, calibration=Calibration.of(rehearsal, self.costs, policy))


def largest_scale(student: Student) -> float:
    """Of those that it knows; 1 for one that is not guided. ValueError for an LCM that does not tell."""
    if student.guidance_scales is None and has_guidance_embedding(student.model.network):
        raise ValueError("the student has a guidance embedding, and nothing tells its scales: give student_scale")
    return max(student.guidance_scales or (1.0,))
