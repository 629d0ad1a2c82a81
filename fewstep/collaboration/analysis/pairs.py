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
from fewstep.collaboration.command_line.kept_lines import KeptLines
from fewstep.collaboration.given import Pictures
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
    given: Mapping[str, Pictures] | None = None,
    kept: KeptLines | None = None,
) -> Pairs:
    """Draws a batch after the other; no picture is kept. asked: what each judge, and "oracle", is told of each prompt.

    curvature_steps: of DDIM, for the teacher's trajectory from the same noise; 0 leaves the curvature out. given:
    `sources` and `controls`, see Cascade; where pictures are edited, all of a prompt start from the same one. kept: a
    line for every prompt; those that are there are not drawn again.
    """
    columns: dict[str, Tensor] = {}
    rows = {row["place"]: row["values"] for row in (kept.rows if kept else ())}

    def note(name: str, values: Tensor) -> None:
        if not values.isfinite().all():
            raise ValueError(f"{name} is {values[~values.isfinite()][0]} for a picture; only finite numbers compare")
        columns[name] = values.detach().double().cpu()

    policy = Policy(math.inf, "regenerate")
    for part in cascade.parts([place for place in range(len(prompts)) if place not in rows]):
        told, own = [prompts[place] for place in part], [seeds[place] for place in part]
        told_oracle = [asked["oracle"][place] for place in part]
        shown = {name: pictures[part] for name, pictures in (given or {}).items()}
        drawn = cascade(told, own, policy, told_oracle, **shown)
        beside, first = cascade.given(len(part), **shown).of(range(len(part))), [0] * len(part)
        others = [f"{seed}, other noise" for seed in own]
        again = cascade.decoded(cascade.improved(torch.empty(0), told, others, first, policy, beside), told)
        for name, judge in judges.items():
            sides = (drawn.draft_images, drawn.images, again)
            note(f"judge {name}", _scores(name, judge, sides, [asked[name][place] for place in part]))
        note("oracle", torch.stack([drawn.draft_scores, cascade.scored(drawn.images, told_oracle)], 1))
        note("distance", distance(drawn.draft_images, drawn.images))
        note("complexity", complexity(drawn.images))
        note("prompt length", prompt_lengths(cascade.teacher.model.prompts.tokenizer, told))
        if curvature_steps:
            noise, _ = cascade.noise(own, first)
            condition = cascade.teacher.model.condition(told, beside.controls)
            note("curvature", teacher_curvature(cascade.teacher, noise, condition, curvature_steps))
        found = {place: {name: v[row].tolist() for name, v in columns.items()} for row, place in enumerate(part)}
        if kept is not None:
            kept.add(*({"place": place, "values": values} for place, values in found.items()))
        rows |= found
    told_of = [rows[place] for place in range(len(prompts))]
    table = {name: torch.tensor([row[name] for row in told_of], dtype=torch.float64) for name in told_of[0]}
    scores = {name: table.pop(f"judge {name}") for name in judges}
    return Pairs(table.pop("oracle"), scores, table)


def _scores(name: str, judge: Callable[..., Tensor], sides: Sequence[Tensor], asked: list[Any]) -> Tensor:
    """[B, sides]"""
    return torch.stack([checked_scores(f"judge {name}", judge(side, asked), len(side)) for side in sides], 1)
