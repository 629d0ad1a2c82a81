"""What any policy makes of known prompts, told from drafts and repairs that are drawn once."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewstep.collaboration.cascade import Cascade, Oracle, checked_scores
from fewstep.collaboration.given import Pictures
from fewstep.collaboration.policy import Policy
from fewstep.collaboration.rollback import Rollback

ORACLE = "oracle"  # whose score decides; the other names are judges that only look


class Judge(NamedTuple):
    """A scorer beside the oracle, and what it is told of each prompt."""

    score: Oracle
    asked: Sequence[Any]


class Played(NamedTuple):
    """What a policy made of N prompts."""

    scores: Mapping[str, Tensor]  # float64 [N] by the oracle and by every judge, of what is returned
    draft_scores: Tensor  # float64 [N], the oracle's of the best draft
    drafts: Tensor  # int64 [N], how many were drawn
    repaired: Tensor  # bool [N]


class Rehearsal:
    """Draws drafts and repairs of prompts as `cascade` does, each once, and keeps their scores.

    A policy that is played makes the pictures that the cascade would make of it (all noise belongs to the sample), for
    the price of what no policy before it has needed. seeds, asked, sources, controls: see Cascade. judges: by name.
    keep_latents: of drafts, [C, h, w] each; False to save memory where no draft is ever refined.
    """

    def __init__(
        self,
        cascade: Cascade,
        prompts: Sequence[str],
        seeds: Sequence[int | str],
        asked: Sequence[Any] | None = None,
        judges: Mapping[str, Judge] | None = None,
        sources: Pictures | None = None,
        controls: Pictures | None = None,
        keep_latents: bool = True,
    ) -> None:
        asked = prompts if asked is None else asked
        self.cascade, self.prompts, self.seeds = cascade, prompts, seeds
        self.judges = {ORACLE: Judge(cascade.oracle, asked), **(judges or {})}
        for name, judge in self.judges.items():
            if not len(prompts) == len(seeds) == len(judge.asked):
                told = f"{len(prompts)} prompts with {len(seeds)} seeds and {len(judge.asked)} of what is asked"
                raise ValueError(f"{name}: {told}")
        self._given = cascade.given(len(prompts), sources, controls)
        self._drafts: list[_Scored] = []  # by the number of the draft
        self._latents: list[dict[int, Tensor]] | None = [] if keep_latents else None  # of the same, by place [C, h, w]
        self._repairs: dict[tuple[str, Rollback | None, int], _Scored] = {}  # by repair and the number of its draft

    def play(self, policy: Policy) -> Played:
        """Scores of what the policy returns, and what it took."""
        num = len(self.prompts)
        best, drafts = torch.zeros(num, dtype=torch.int64), torch.ones(num, dtype=torch.int64)
        scores = self._of_drafts(0, drafts > 0)
        for number in range(1, policy.drafts):
            again = scores[:, 0] < policy.enough
            found = self._of_drafts(number, again)
            better = again & (found[:, 0] > scores[:, 0])
            scores, best = torch.where(better[:, None], found, scores), best.where(~better, number)
            drafts = drafts + again
        repaired = (scores[:, 0] < policy.threshold) & (policy.repair != "keep")
        final = scores.clone()
        for number in best[repaired].unique().tolist():
            places = repaired & (best == number)
            made = self._of_repairs(policy, number, places)
            taken = places & (made[:, 0] >= scores[:, 0]) if policy.keep_best else places
            final = torch.where(taken[:, None], made, final)
        return Played(dict(zip(self.judges, final.unbind(1), strict=True)), scores[:, 0], drafts, repaired)

    def latents(self, number: int, places: Sequence[int]) -> Tensor:
        """float32 [B, C, h, w] of drafts that some policy has needed, on the CPU."""
        if self._latents is None:
            raise ValueError("this rehearsal keeps no latents of drafts, which refining needs: give keep_latents=True")
        return torch.stack([self._latents[number][place] for place in places])

    def _of_drafts(self, number: int, places: Tensor) -> Tensor:
        """[N, judges]; NaN beside the places bool [N] that were ever asked for."""
        if number == len(self._drafts):
            self._drafts.append(_Scored(len(self.prompts), len(self.judges)))
            if self._latents is not None:
                self._latents.append({})
        for part in self.cascade.parts(self._drafts[number].lacking(places)):
            seeds = [self.seeds[place] for place in part]
            told = self._told(part)
            latents = self.cascade.drafted(told, seeds, [number] * len(part), self._given.of(part))
            if self._latents is not None:
                self._latents[number].update(zip(part, latents.float().cpu(), strict=True))
            self._drafts[number].note(part, self._scores(self.cascade.decoded_drafts(latents, told), part))
        return self._drafts[number].values

    def _of_repairs(self, policy: Policy, number: int, places: Tensor) -> Tensor:
        """[N, judges] of the teacher's pictures of these drafts."""
        key = (policy.repair, policy.rollback if policy.repair == "refine" else None, number)
        known = self._repairs.setdefault(key, _Scored(len(self.prompts), len(self.judges)))
        for part in self.cascade.parts(known.lacking(places)):
            drafts = self.latents(number, part) if policy.repair == "refine" else None
            known.note(part, self.improved_scores(self.cascade, part, [number] * len(part), policy, drafts))
        return known.values

    @torch.no_grad()
    def improved_scores(
        self, cascade: Cascade, part: Sequence[int], numbers: Sequence[int], policy: Policy, drafts: Tensor | None
    ) -> Tensor:
        """float64 [B, judges] of what the cascade's teacher makes of drafts [B, C, h, w] of these prompts.

        drafts: None where the policy draws anew.
        """
        network = next(cascade.teacher.model.network.parameters())
        given = torch.empty(0) if drafts is None else drafts.to(network.device)
        told, seeds = self._told(part), [self.seeds[place] for place in part]
        latents = cascade.improved(given, told, seeds, numbers, policy, self._given.of(part))
        return self._scores(cascade.decoded(latents, told), part)

    def _told(self, part: Sequence[int]) -> list[str]:
        return [self.prompts[place] for place in part]

    @torch.no_grad()
    def _scores(self, images: Tensor, part: Sequence[int]) -> Tensor:
        found = []
        for name, judge in self.judges.items():
            scores = judge.score(images, [judge.asked[place] for place in part])
            found.append(checked_scores(name, scores, len(part)))
        return torch.stack(found, 1).double()


class _Scored:
    """Scores of those of N pictures that exist so far."""

    def __init__(self, num: int, judges: int) -> None:
        self.values = torch.full((num, judges), torch.nan, dtype=torch.float64)
        self.known = torch.zeros(num, dtype=torch.bool)

    def lacking(self, places: Tensor) -> list[int]:
        """Which of the places bool [N] are to be drawn yet."""
        return (places & ~self.known).nonzero()[:, 0].tolist()

    def note(self, part: list[int], values: Tensor) -> None:
        self.values[part], self.known[part] = values, True
