"""The cascade: a student drafts, an oracle decides, a teacher improves what needs it (Starodubcev et al. 2023)."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewstep.choices import require_range
from fewstep.collaboration.policy import Policy
from fewstep.collaboration.student import Student
from fewstep.collaboration.teacher import Teacher
from fewstep.diffusion.guidance import Condition
from fewstep.rng import PerSampleRng

Oracle = Callable[[Tensor, list[Any]], Tensor]  # (images [B, 3, H, W] in [-1, 1], what is asked of each) -> [B]


class Collaborated(NamedTuple):
    """What became of B prompts."""

    images: Tensor  # [B, 3, H, W] in [-1, 1]
    scores: Tensor  # [B], the oracle's of what is returned; NaN for what the teacher made and nobody looked at
    draft_scores: Tensor  # [B], of the best draft
    draft_images: Tensor  # [B, 3, H, W], that draft
    drafts: Tensor  # int64 [B], how many were drawn
    repaired: Tensor  # bool [B], whether the teacher was asked
    seconds: Tensor  # [B], a share of the wall-clock time of the batches that a prompt was in

    def routes(self, repair: str) -> list[str]:
        """ "keep" or the repair, for each."""
        return [repair if repaired else "keep" for repaired in self.repaired.tolist()]


@dataclass(frozen=True)
class Cascade:
    """Student, teacher and oracle, with latents of one kind. batch_size: prompts in one call of any of them.

    The student draws, and the oracle looks at, full batches; what is deferred is gathered into full batches of the
    teacher. All noise belongs to the sample, so no picture depends on what else is drawn with it.
    """

    student: Student
    teacher: Teacher
    oracle: Oracle
    student_steps: int = 4
    student_scale: float = 1.0
    batch_size: int = 32

    def __post_init__(self) -> None:
        mine, theirs = self.student.model, self.teacher.model
        shapes = [(model.latents.channels, *model.sample_size) for model in (mine, theirs)]
        scales = [(model.latents.scale, model.latents.shift) for model in (mine, theirs)]
        if shapes[0] != shapes[1] or scales[0] != scales[1]:
            raise ValueError(
                f"student and teacher have different latents, {list(shapes[0])} and {list(shapes[1])}, scaled by "
                f"{scales[0][0]:g} and {scales[1][0]:g}; a draft can only go on in latents of the same autoencoder"
            )
        self.student.check(self.student_steps, self.student_scale)
        require_range("student guidance_scale", self.student_scale)
        require_range("batch_size", self.batch_size, 1)

    @torch.no_grad()
    def __call__(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int | str],
        policy: Policy,
        asked: Sequence[Any] | None = None,
    ) -> Collaborated:
        """Pictures of prompts. seeds: of each one, such as its key; equal seeds give equal noise.

        asked: what the oracle is told in place of the prompts, such as the attributes of each.
        """
        asked = prompts if asked is None else asked
        if not len(prompts) == len(seeds) == len(asked):
            raise ValueError(f"{len(prompts)} prompts with {len(seeds)} seeds and {len(asked)} of what is asked")
        state = _State([], [], [], [], [], torch.zeros(len(prompts)))
        for part in self._parts(range(len(prompts))):
            self._draft(state, part, prompts, seeds, asked)
        for number in range(1, policy.drafts):
            again = [place for place in range(len(prompts)) if state.scores[place] < policy.enough]
            for part in self._parts(again):
                self._draft(state, part, prompts, seeds, asked, number)
        scores, drafted = torch.stack(state.scores), torch.stack(state.images)
        images, final = drafted.clone(), scores.clone()
        repaired = (scores < policy.threshold) & (policy.repair != "keep")
        for part in self._parts(repaired.nonzero()[:, 0].tolist()):
            self._repair(state, part, prompts, seeds, asked, policy, images, final)
        draws = torch.tensor(state.draws)
        return Collaborated(images, final, scores, drafted, draws, repaired, state.seconds)

    def _parts(self, places: Sequence[int]) -> list[list[int]]:
        return [list(places[start : start + self.batch_size]) for start in range(0, len(places), self.batch_size)]

    def noise(self, seeds: Sequence[int | str], numbers: Sequence[int]) -> tuple[Tensor, PerSampleRng]:
        """What draft `number` of each starts from [B, C, h, w], and the rng of the noise between its steps."""
        names = [f"{seed}, draft {n}" if n else seed for seed, n in zip(seeds, numbers, strict=True)]
        rng = PerSampleRng(0, names, next(self.teacher.model.network.parameters()).device)
        model = self.student.model
        return rng.normal(model.latents.channels, *model.sample_size), rng

    def _draft(
        self,
        state: "_State",
        part: list[int],
        prompts: Sequence[str],
        seeds: Sequence[int | str],
        asked: Sequence[Any],
        number: int = 0,
    ) -> None:
        began = time.perf_counter()
        noise, rng = self.noise([seeds[place] for place in part], [number] * len(part))
        condition = self._condition(self.student, prompts, part)
        latents = self.student.draw(noise, condition, rng, self.student_steps, self.student_scale)
        images = self.student.model.latents.decode(latents)
        scores = self._scores(images, [asked[place] for place in part])
        for place, latent, image, score in zip(part, latents, images, scores, strict=True):
            state.note(place, latent, image, score)
        state.seconds[part] += (time.perf_counter() - began) / len(part)

    def _repair(
        self,
        state: "_State",
        part: list[int],
        prompts: Sequence[str],
        seeds: Sequence[int | str],
        asked: Sequence[Any],
        policy: Policy,
        images: Tensor,
        scores: Tensor,
    ) -> None:
        began = time.perf_counter()
        condition = self._condition(self.teacher, prompts, part)
        if policy.repair == "regenerate":
            noise, _ = self.noise([seeds[place] for place in part], [state.best[place] for place in part])
            latents = self.teacher.generate(noise, condition)
        else:
            draft = torch.stack([state.latents[place] for place in part])
            rng = PerSampleRng(0, [f"{seeds[place]}, teacher" for place in part], draft.device)
            latents = self.teacher.refine(draft, rng.normal(*draft.shape[1:]), condition, policy.rollback)
        made = self.teacher.model.latents.decode(latents)
        if not made.isfinite().all():
            bad = [prompts[place] for place, each in zip(part, made, strict=True) if not each.isfinite().all()]
            raise ValueError(
                f"the teacher made no numbers of {bad[0][:60]!r}; use float32, or another solver or more noise"
            )
        if policy.keep_best:
            found = self._scores(made, [asked[place] for place in part])
            better = found >= scores[part]
            images[part] = torch.where(better[:, None, None, None].to(made.device), made, images[part])
            scores[part] = torch.where(better, found, scores[part])
        else:
            images[part], scores[part] = made, torch.nan
        state.seconds[part] += (time.perf_counter() - began) / len(part)

    def _condition(self, whose: Student | Teacher, prompts: Sequence[str], part: list[int]) -> Condition:
        return whose.model.prompts([prompts[place] for place in part])

    def _scores(self, images: Tensor, asked: list[Any]) -> Tensor:
        scores = self.oracle(images, asked)
        if scores.shape != (len(images),):
            raise ValueError(
                f"the oracle returned shape {list(scores.shape)} for {len(images)} pictures, needed is [B]"
            )
        if scores.isnan().any():
            raise ValueError(
                f"the oracle returned NaN for {int(scores.isnan().sum())} of {len(images)} pictures; mend it"
            )
        return scores.float().cpu()


class _State(NamedTuple):
    """The best draft of every prompt so far, each list in the order of the prompts."""

    latents: list[Tensor]
    images: list[Tensor]
    scores: list[Tensor]
    draws: list[int]
    best: list[int]  # the number of that draft
    seconds: Tensor

    def note(self, place: int, latent: Tensor, image: Tensor, score: Tensor) -> None:
        if place == len(self.latents):
            self.latents.append(latent)
            self.images.append(image)
            self.scores.append(score)
            self.draws.append(1)
            self.best.append(0)
            return
        self.draws[place] += 1
        if score > self.scores[place]:
            self.latents[place], self.images[place], self.scores[place] = latent, image, score
            self.best[place] = self.draws[place] - 1
