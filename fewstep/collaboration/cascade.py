"""The cascade: a student drafts, an oracle decides, a teacher improves what needs it (Starodubcev et al. 2023)."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewstep.choices import require_range
from fewstep.collaboration.given import NOTHING, AllGiven, Given, Pictures
from fewstep.collaboration.policy import Policy
from fewstep.collaboration.rollback import EditStrength, Rollback
from fewstep.collaboration.student import Student
from fewstep.collaboration.teacher import Teacher
from fewstep.rng import PerSampleRng

BATCHES = 4  # of prompts at most in one call where there are many: what it returns lies on the device
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

    edit: how far given pictures are taken back, from which drafts start then, and what is drawn anew; None to draw
    from noise. With a control network beside student and teacher, pictures for it are given, too.
    The student draws, and the oracle looks at, full batches; what is deferred is gathered into full batches of the
    teacher. All noise belongs to the sample, so no picture depends on what else is drawn with it.
    """

    student: Student
    teacher: Teacher
    oracle: Oracle
    student_steps: int = 4
    student_scale: float = 1.0
    batch_size: int = 32
    edit: EditStrength | None = None

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
        if self.edit is not None:
            self.student.check_editing()
            for model in (mine, theirs):
                self.edit.time(model.parametrization.schedule)

    @torch.no_grad()
    def __call__(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int | str],
        policy: Policy,
        asked: Sequence[Any] | None = None,
        sources: Pictures | None = None,
        controls: Pictures | None = None,
    ) -> Collaborated:
        """Pictures of prompts. seeds: of each one, such as its key; equal seeds give equal noise.

        asked: what the oracle is told in place of the prompts, such as the attributes of each. sources, controls:
        [B, 3, H, W] in [-1, 1], what is edited and what a control network reads.
        """
        asked = prompts if asked is None else asked
        if not len(prompts) == len(seeds) == len(asked):
            raise ValueError(f"{len(prompts)} prompts with {len(seeds)} seeds and {len(asked)} of what is asked")
        began = time.perf_counter()
        given = self.given(len(prompts), sources, controls)
        spent = torch.full((len(prompts),), (time.perf_counter() - began) / len(prompts))
        state = _State([], [], [], [], [], spent)
        for part in self.parts(range(len(prompts))):
            self._draft(state, part, prompts, seeds, asked, given)
        for number in range(1, policy.drafts):
            again = [place for place in range(len(prompts)) if state.scores[place] < policy.enough]
            for part in self.parts(again):
                self._draft(state, part, prompts, seeds, asked, given, number)
        scores, drafted = torch.stack(state.scores), torch.stack(state.images)
        images, final = drafted.clone(), scores.clone()
        repaired = (scores < policy.threshold) & (policy.repair != "keep")
        for part in self.parts(repaired.nonzero()[:, 0].tolist()):
            self._repair(state, part, prompts, seeds, asked, given, policy, images, final)
        draws = torch.tensor(state.draws)
        return Collaborated(images, final, scores, drafted, draws, repaired, state.seconds)

    def parts(self, places: Sequence[int]) -> list[list[int]]:
        """Of one batch each."""
        return [list(places[start : start + self.batch_size]) for start in range(0, len(places), self.batch_size)]

    def noise(self, seeds: Sequence[int | str], numbers: Sequence[int]) -> tuple[Tensor, PerSampleRng]:
        """What draft `number` of each starts from [B, C, h, w], and the rng of the noise between its steps."""
        names = [f"{seed}, draft {n}" if n else seed for seed, n in zip(seeds, numbers, strict=True)]
        rng = PerSampleRng(0, names, next(self.teacher.model.network.parameters()).device)
        model = self.student.model
        return rng.normal(model.latents.channels, *model.sample_size), rng

    @torch.no_grad()
    def given(self, num: int, sources: Pictures | None = None, controls: Pictures | None = None) -> AllGiven:
        """The pictures that come with `num` prompts; those that are edited are encoded here.

        ValueError in one line where some are given that nobody needs, or lacking, or of another size.
        """
        if (sources is None) != (self.edit is None):
            told = "no edit strength, which belongs to" if self.edit is None else "an edit strength, and no"
            raise ValueError(f"there is {told} sources, the pictures that are edited; give both or neither")
        for name, pictures in (("sources", sources), ("controls", controls)):
            if pictures is not None and len(pictures) != num:
                raise ValueError(f"{num} prompts with {len(pictures)} {name}; give one for each")
        if sources is None:
            return AllGiven(None, controls)
        model, latents = self.student.model, []
        for part in self.parts(range(num)):
            pictures = sources[part].to(next(model.network.parameters()).device)
            model.check_pictures("sources", pictures, len(part))
            latents.append(model.latents.encode(pictures).cpu())
        return AllGiven(torch.cat(latents), controls)

    def drafted(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int | str],
        numbers: Sequence[int],
        given: Given = NOTHING,
    ) -> Tensor:
        """Latents [B, C, h, w] of the student; numbers: of the drafts, the first is 0."""
        noise, rng = self.noise(seeds, numbers)
        condition = self.student.model.condition(prompts, given.controls)
        plan = self.student_steps, self.student_scale
        if self.edit is None:
            return self.student.draw(noise, condition, rng, *plan)
        assert given.sources is not None
        return self.student.edit(given.sources.to(noise), noise, condition, rng, self.edit, *plan)

    def improved(
        self,
        drafts: Tensor,
        prompts: Sequence[str],
        seeds: Sequence[int | str],
        numbers: Sequence[int],
        policy: Policy,
        given: Given = NOTHING,
    ) -> Tensor:
        """Latents [B, C, h, w] of the teacher; drafts: those latents of the student, with their numbers.

        What is drawn anew starts as its draft did, from noise or from the same picture with the same noise.
        """
        condition = self.teacher.model.condition(prompts, given.controls)
        if policy.repair == "regenerate":
            noise, _ = self.noise(seeds, numbers)
            if self.edit is None:
                return self.teacher.generate(noise, condition)
            assert given.sources is not None
            return self.teacher.refine(given.sources.to(noise), noise, condition, self.edit)
        rng = PerSampleRng(0, [f"{seed}, teacher" for seed in seeds], drafts.device)
        return self.teacher.refine(drafts, rng.normal(*drafts.shape[1:]), condition, policy.rollback)

    def decoded(self, latents: Tensor, prompts: Sequence[str]) -> Tensor:
        """Pictures of the teacher [B, 3, H, W] in [-1, 1]; ValueError in one line where they are no numbers."""
        made = self.teacher.model.latents.decode(latents)
        return _checked_pictures("the teacher", made, prompts, "use float32, or another solver or more noise")

    def decoded_drafts(self, latents: Tensor, prompts: Sequence[str]) -> Tensor:
        """The same of the student, by its own autoencoder."""
        made = self.student.model.latents.decode(latents)
        return _checked_pictures("the student", made, prompts, "use float32, or another student")

    def check_rollback(self, rollback: Rollback) -> None:
        """ValueError in one line for more noise than the teacher's schedule has, or than an edit was taken back by.

        What is deeper than that is no longer of the picture that was given.
        """
        schedule = self.teacher.model.parametrization.schedule
        deep = rollback.time(schedule)
        if self.edit is not None and deep > (most := self.edit.time(schedule)):
            told = f"is deeper, t = {deep:g}, than the edit itself, {most:g} by edit_{self.edit.kind}={self.edit.value}"
            raise ValueError(f"rollback_{rollback.kind}={rollback.value} {told}; give at most that")

    def scored(self, images: Tensor, asked: list[Any]) -> Tensor:
        """float32 [B] on the CPU, by the oracle."""
        return checked_scores("the oracle", self.oracle(images, asked), len(images))

    def _draft(
        self,
        state: "_State",
        part: list[int],
        prompts: Sequence[str],
        seeds: Sequence[int | str],
        asked: Sequence[Any],
        given: AllGiven,
        number: int = 0,
    ) -> None:
        began = time.perf_counter()
        told, own = [prompts[place] for place in part], [seeds[place] for place in part]
        latents = self.drafted(told, own, [number] * len(part), given.of(part))
        images = self.decoded_drafts(latents, told)
        scores = self.scored(images, [asked[place] for place in part])
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
        given: AllGiven,
        policy: Policy,
        images: Tensor,
        scores: Tensor,
    ) -> None:
        began = time.perf_counter()
        told, own = [prompts[place] for place in part], [seeds[place] for place in part]
        drafts = torch.stack([state.latents[place] for place in part])
        numbers = [state.best[place] for place in part]
        latents = self.improved(drafts, told, own, numbers, policy, given.of(part))
        made = self.decoded(latents, told)
        if policy.keep_best:
            found = self.scored(made, [asked[place] for place in part])
            better = found >= scores[part]
            images[part] = torch.where(better[:, None, None, None].to(made.device), made, images[part])
            scores[part] = torch.where(better, found, scores[part])
        else:
            images[part], scores[part] = made, torch.nan
        state.seconds[part] += (time.perf_counter() - began) / len(part)


def checked_scores(whose: str, scores: Tensor, num: int) -> Tensor:
    """float32 [num] on the CPU; ValueError in one line where they are not that, or NaN."""
    if scores.shape != (num,):
        raise ValueError(f"{whose} returned shape {list(scores.shape)} for {num} pictures, needed is [B]")
    if scores.isnan().any():
        raise ValueError(f"{whose} returned NaN for {int(scores.isnan().sum())} of {num} pictures; mend it")
    return scores.float().cpu()


def _checked_pictures(whose: str, made: Tensor, prompts: Sequence[str], remedy: str) -> Tensor:
    if not made.isfinite().all():
        bad = [prompt for prompt, each in zip(prompts, made, strict=True) if not each.isfinite().all()]
        raise ValueError(f"{whose} made no numbers of {bad[0][:60]!r}; {remedy}")
    return made


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
