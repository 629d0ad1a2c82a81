"""What is known of a cascade before it is used: the oracle's scores of drafts for calibration prompts, in one file.

A threshold means something for these drafts and this oracle only. So the file names student, steps, guidance, size,
oracle and prompts, and is refused where one of them differs.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.choices import require_range
from fewstep.collaboration.cascade import Cascade
from fewstep.collaboration.costs import Costs
from fewstep.collaboration.policy import Policy
from fewstep.collaboration.rollback import Rollback
from fewstep.collaboration.routing import budget_threshold, deferred_at_most, percentile_threshold
from fewstep.files.durable import replace_file
from fewstep.files.plain_json import read_json
from fewstep.files.plain_reader import each, fields, flag, named, number, optional, positive, shown, text, whole
from fewstep.files.weights import weights_sha256

SCHEMA = 1
COSTS = fields(dict.fromkeys(("draft", "look", "decode"), number) | dict.fromkeys(("repair", "flops"), positive))


@dataclass(frozen=True)
class Calibration:
    """about: what the scores are of, as `identity` tells. scores: float64 [N], rising, each of a prompt's best draft.

    draws: int64 [N], of the same prompts how many drafts that took. policy: how drafts are drawn and repaired, without
    a threshold. prompts: the hash of the calibration prompts.
    """

    about: Mapping[str, str]
    prompts: str
    scores: Tensor
    draws: Tensor
    policy: Policy
    costs: Costs

    @classmethod
    def of(
        cls, cascade: Cascade, costs: Costs, prompts: Sequence[str], seeds: Sequence[int | str], policy: Policy,
        asked: Sequence[Any] | None = None,
    ) -> "Calibration":  # fmt: skip
        """By drawing the drafts of these prompts; nothing is asked of the teacher.

        ValueError in one line for several drafts without `good_enough`, as no threshold is known yet.
        """
        if policy.drafts > 1 and policy.good_enough is None:
            raise ValueError(
                f"drafts={policy.drafts}: say what score is good_enough, above which no further one is drawn"
            )
        asked = prompts if asked is None else asked
        found = []
        for start in range(0, len(prompts), step := 4 * cascade.batch_size):  # no more pictures than these at a time
            part = slice(start, start + step)
            drawn = cascade(prompts[part], seeds[part], replace(policy, repair="keep"), asked[part])
            found.append((drawn.draft_scores, drawn.drafts))
        scores, draws = (torch.cat(column) for column in zip(*found, strict=True))
        if not scores.isfinite().all():
            raise ValueError(
                f"the oracle's scores are not all finite, such as {scores[~scores.isfinite()][0]}; mend it"
            )
        order = scores.argsort()
        digest = hashlib.sha256("\n".join(prompts).encode()).hexdigest()[:16]
        return cls(identity(cascade), digest, scores[order].double(), draws[order], policy, costs)

    def check(self, cascade: Cascade) -> None:
        """ValueError in one line where the cascade is not the one that was calibrated."""
        for name, value in identity(cascade).items():
            if self.about.get(name) != value:
                told = f"the calibration is of {name} {self.about.get(name)}, this is {value}"
                raise ValueError(f"{told}; calibrate again")

    def for_percentile(self, k: float) -> Policy:
        """That repairs k per cent of drafts like those of the calibration; the paper's way."""
        return replace(self.policy, threshold=percentile_threshold(self.scores, k))

    def for_passes(self, mean_passes: float) -> Policy:
        """That costs at most so many passes of the teacher's network a picture, on average over prompts like these.

        ValueError in one line for fewer than the drafts alone take.
        """
        share = self.share(mean_passes)
        return replace(self.policy, threshold=budget_threshold(self.scores, share))

    def share(self, mean_passes: float) -> float:
        """Of drafts that can be repaired for so many passes a picture; at most 1."""
        require_range("mean_passes", mean_passes, above=True)
        if self.policy.repair == "keep":
            raise ValueError("the policy repairs nothing, so its passes are what they are; choose refine or regenerate")
        drafted = self.draft_passes
        if mean_passes < drafted:
            raise ValueError(f"mean_passes={mean_passes:g}: drafts and the oracle alone take {drafted:.3g}; give more")
        return min((mean_passes - drafted) / self.repair_passes, 1.0)

    @property
    def draft_passes(self) -> float:
        """For the drafts of a picture and the oracle's looks at them, on average."""
        return self.draws.double().mean().item() * self.costs.judged_draft

    @property
    def repair_passes(self) -> float:
        """For one picture that the teacher is asked for."""
        return self.costs.repair + (self.costs.look if self.policy.keep_best else self.costs.decode)

    def passes_at_most(self, share: float, confidence: float = 0.95) -> float:
        """What mean passes stay below with this confidence, by what is known of the share alone."""
        return self.draft_passes + deferred_at_most(len(self.scores), share, confidence) * self.repair_passes

    def save(self, file: str | Path) -> None:
        """As JSON."""
        policy: dict[str, Any] = {"threshold": _written(self.policy.threshold), "repair": self.policy.repair}
        policy |= {"drafts": self.policy.drafts, "keep_best": self.policy.keep_best}
        policy["good_enough"] = None if self.policy.good_enough is None else _written(self.policy.good_enough)
        policy |= {"rollback": self.policy.rollback.value, "rollback_kind": self.policy.rollback.kind}
        told = {"schema": SCHEMA, "about": dict(self.about), "prompts": self.prompts, "policy": policy}
        told |= {"costs": self.costs.__dict__, "scores": self.scores.tolist(), "draws": self.draws.tolist()}
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        replace_file(Path(file), (json.dumps(told) + "\n").encode())

    @classmethod
    def load(cls, file: str | Path) -> "Calibration":
        """What `save` wrote, by whomever; ValueError in one line."""
        try:
            told = read_json(Path(file))
            if not isinstance(told, dict):
                raise ValueError(f"it is {shown(told)}, no mapping")
            PARTS(told, "")
            if told["schema"] != SCHEMA or not told["scores"] or len(told["draws"]) != len(told["scores"]):
                raise ValueError(
                    f"schema {told['schema']} with {len(told['scores'])} scores, {len(told['draws'])} draws"
                )
            p = told["policy"]
            rollback = Rollback(p["rollback"], p["rollback_kind"])
            enough = None if p["good_enough"] is None else float(p["good_enough"])
            policy = Policy(float(p["threshold"]), p["repair"], rollback, p["drafts"], p["keep_best"], enough)
            scores = torch.tensor(told["scores"], dtype=torch.float64)
            if not scores.isfinite().all() or (scores.diff() < 0).any():
                raise ValueError("its scores do not rise, or are not all finite")
            costs = Costs(**{name: float(value) for name, value in told["costs"].items()})
            return cls(told["about"], told["prompts"], scores, torch.tensor(told["draws"]), policy, costs)
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(f"cannot read the calibration {file}: {error}; calibrate again") from None


def _written(threshold: float) -> float | str:
    return threshold if math.isfinite(threshold) else str(threshold)  # JSON has no infinity


def _threshold(value: Any, name: str) -> None:
    if value not in ("inf", "-inf"):
        number(value, name)


PARTS = fields(
    {
        "schema": whole,
        "about": named(text),
        "prompts": text,
        "scores": each(number),
        "draws": each(whole),
        "costs": COSTS,
        "policy": fields(
            {"threshold": _threshold, "repair": text, "drafts": whole, "keep_best": flag, "rollback": number}
            | {"good_enough": optional(_threshold), "rollback_kind": text}
        ),
    }
)


def identity(cascade: Cascade) -> dict[str, str]:
    """What the scores of drafts, and what a repair costs and brings, depend on, as hashes and words."""
    student, teacher, oracle = cascade.student, cascade.teacher, cascade.oracle
    model = student.model
    parts = [weights_sha256(network) for network in (model.latents.autoencoder, *model.prompts.networks.values())]
    told = {"student": student.sha256, "autoencoder and text encoders": " ".join(parts)}
    told |= {"student steps": str(cascade.student_steps), "student guidance scale": f"{cascade.student_scale:g}"}
    told |= {"picture size": "x".join(map(str, model.image_size))}
    told |= {"teacher": weights_sha256(teacher.model.network), "teacher steps": str(teacher.num_steps)}
    told |= {"teacher guidance scale": f"{teacher.guidance_scale:g}", "solver": teacher.solver}
    name = getattr(oracle, "__qualname__", type(oracle).__qualname__)
    told["oracle"] = f"{name} {weights_sha256(oracle)}" if isinstance(oracle, nn.Module) else name
    return told
