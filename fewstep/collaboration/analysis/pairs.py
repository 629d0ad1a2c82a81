"""Pictures of student and teacher from one noise, and of the teacher from another, as numbers to analyse."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fewstep.collaboration.analysis.covariates import PictureDistance, complexity, prompt_lengths, teacher_curvature
from fewstep.collaboration.cascade import Cascade, Oracle, checked_scores
from fewstep.collaboration.policy import Policy

WINNER = {1: "student", -1: "teacher", 0: "tie"}


@dataclass(frozen=True)
class Pairs:
    """Of N prompts. oracle: float64 [N, 2], of the student's picture and of the teacher's.

    judges: by name float64 [N, 3], of the same two and of the teacher's picture from other noise. covariates: by name
    float64 [N].
    """

    oracle: Tensor
    judges: Mapping[str, Tensor]
    covariates: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(self.oracle)

    def lines(self, keys: Sequence[str], prompts: Sequence[str], outcome: Mapping[str, Tensor]) -> bytes:
        """One of JSON for each prompt; outcome: [N] of each judge."""
        rows = []
        for place, (key, prompt) in enumerate(zip(keys, prompts, strict=True)):
            judged = {
                name: dict(zip(("student", "teacher", "teacher_again"), scores[place].tolist(), strict=True))
                | {"winner": WINNER[int(outcome[name][place])]}
                for name, scores in self.judges.items()
            }
            oracle = dict(zip(("student", "teacher"), self.oracle[place].tolist(), strict=True))
            covariates = {name: values[place].item() for name, values in self.covariates.items()}
            row = {"key": key, "prompt": prompt, "oracle": oracle, "judges": judged, "covariates": covariates}
            rows.append(json.dumps(row) + "\n")
        return "".join(rows).encode()


@torch.no_grad()
def draw_pairs(
    cascade: Cascade,
    judges: Mapping[str, Oracle],
    prompts: Sequence[str],
    seeds: Sequence[str],
    asked: Mapping[str, Sequence[Any]],
    distance: PictureDistance,
    curvature_steps: int,
) -> Pairs:
    """Draws a batch after the other; no picture is kept. asked: what each judge, and "oracle", is told of each prompt.

    curvature_steps: of DDIM, for the teacher's trajectory from the same noise; 0 leaves the curvature out.
    """
    columns: dict[str, list[Tensor]] = {}

    def note(name: str, values: Tensor) -> None:
        if not values.isfinite().all():
            raise ValueError(f"{name} is {values[~values.isfinite()][0]} for a picture; only finite numbers compare")
        columns.setdefault(name, []).append(values.detach().double().cpu())

    for part in cascade.parts(range(len(prompts))):
        told, own = [prompts[place] for place in part], [seeds[place] for place in part]
        told_oracle = [asked["oracle"][place] for place in part]
        drawn = cascade(told, own, Policy(math.inf, "regenerate"), told_oracle)
        first = [0] * len(part)
        condition = cascade.teacher.model.prompts(told)
        other, _ = cascade.noise([f"{seed}, other noise" for seed in own], first)
        again = cascade.decoded(cascade.teacher.generate(other, condition), told)
        for name, judge in judges.items():
            sides = (drawn.draft_images, drawn.images, again)
            note(f"judge {name}", _scores(name, judge, sides, [asked[name][place] for place in part]))
        note("oracle", torch.stack([drawn.draft_scores, cascade.scored(drawn.images, told_oracle)], 1))
        note("distance", distance(drawn.draft_images, drawn.images))
        note("complexity", complexity(drawn.images))
        note("prompt length", prompt_lengths(cascade.teacher.model.prompts.tokenizer, told))
        if curvature_steps:
            noise, _ = cascade.noise(own, first)
            note("curvature", teacher_curvature(cascade.teacher, noise, condition, curvature_steps))
    table = {name: torch.cat(parts) for name, parts in columns.items()}
    scores = {name: table.pop(f"judge {name}") for name in judges}
    return Pairs(table.pop("oracle"), scores, table)


def _scores(name: str, judge: Callable[..., Tensor], sides: Sequence[Tensor], asked: list[Any]) -> Tensor:
    """[B, sides]"""
    return torch.stack([checked_scores(f"judge {name}", judge(side, asked), len(side)) for side in sides], 1)
