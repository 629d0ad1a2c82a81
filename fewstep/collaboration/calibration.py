"""What is known of a cascade before it is used: the oracle's scores of drafts for calibration prompts, in one file.

A threshold means something for these drafts and this oracle only. So the file names student, steps, guidance, size,
oracle and prompts, and is refused where one of them differs.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fewstep.backbones import LatentDiffusion
from fewstep.collaboration.cascade import Cascade
from fewstep.collaboration.costs import Costs
from fewstep.collaboration.policy import Policy
from fewstep.collaboration.rehearsal import Rehearsal
from fewstep.collaboration.rollback import Rollback
from fewstep.collaboration.strategies import Strategy, chosen, menu, worth_keeping
from fewstep.files.durable import replace_file
from fewstep.files.plain_reader import (
    each,
    fields,
    flag,
    named,
    number,
    optional,
    positive,
    read_fields,
    text,
    whole,
)
from fewstep.files.weights import weights_sha256

SCHEMA = 2
POSITIVE = dict.fromkeys(("repair", "flops"), positive)
COSTS = fields(dict.fromkeys(("draft", "look", "decode"), number) | POSITIVE, encode=number)


@dataclass(frozen=True)
class Calibration:
    """about: what the scores are of, as `identity` tells. prompts: the hash of the calibration prompts.

    strategies: one that was told, or several, of which a budget chooses.
    """

    about: Mapping[str, str]
    prompts: str
    costs: Costs
    strategies: tuple[Strategy, ...]

    @classmethod
    def of(cls, rehearsal: Rehearsal, costs: Costs, policy: Policy | None) -> "Calibration":
        """By drawing the drafts of the rehearsal's prompts; for policy None the repairs of a whole menu, too.

        ValueError in one line for a rollback that no repair can be played with; see Cascade.check_rollback.
        """
        if policy is not None:
            if policy.repair == "refine":
                rehearsal.cascade.check_rollback(policy.rollback)
            strategies = [Strategy.of(rehearsal, costs, policy, with_repairs=False)]
        else:
            strategies = [Strategy.of(rehearsal, costs, each, with_repairs=True) for each in menu(rehearsal)]
            strategies = worth_keeping(strategies)
        digest = hashlib.sha256("\n".join(rehearsal.prompts).encode()).hexdigest()[:16]
        return cls(identity(rehearsal.cascade), digest, costs, tuple(strategies))

    def check(self, cascade: Cascade) -> None:
        """ValueError in one line where the cascade is not the one that was calibrated."""
        now = identity(cascade)
        for name in {**now, **self.about}:  # an edit has a strength, and a drawing has none
            known, value = self.about.get(name, "none"), now.get(name, "none")
            if known != value:
                raise ValueError(f"the calibration is of {name} {known}, this is {value}; calibrate again")

    def policy(self, mean_passes: float | None = None, k: float | None = None) -> Policy:
        """Of the one of them that is given; ValueError in one line for a budget that cannot be kept."""
        if (mean_passes is None) == (k is None):
            raise ValueError("give one of mean_passes and k: how much the teacher shall improve")
        if k is not None:
            return self.for_percentile(k)
        assert mean_passes is not None
        return self.for_passes(mean_passes)

    def for_percentile(self, k: float) -> Policy:
        """That repairs k per cent of drafts like those of the calibration; the paper's way."""
        if len(self.strategies) > 1:
            raise ValueError("k is for one strategy, and this calibration chooses among several: give mean_passes")
        return self.strategies[0].for_percentile(k)

    def for_passes(self, mean_passes: float) -> Policy:
        """That costs at most so many passes of the teacher's network a picture, on average over prompts like these.

        Of several strategies the one with the best expected score. ValueError in one line for fewer passes than the
        drafts alone take.
        """
        if len(self.strategies) > 1:
            return chosen(self.strategies, mean_passes)[1]
        return self.strategies[0].for_passes(mean_passes)

    def save(self, file: str | Path) -> None:
        """As JSON."""
        told: dict[str, Any] = {"schema": SCHEMA, "about": dict(self.about), "prompts": self.prompts}
        told |= {"costs": self.costs.__dict__, "strategies": [_strategy_written(each) for each in self.strategies]}
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        replace_file(Path(file), (json.dumps(told) + "\n").encode())

    @classmethod
    def load(cls, file: str | Path) -> "Calibration":
        """What `save` wrote, by whomever; ValueError in one line."""
        try:
            told = read_fields(Path(file), PARTS)
            if told["schema"] != SCHEMA or not told["strategies"]:
                raise ValueError(f"schema {told['schema']} with {len(told['strategies'])} strategies")
            costs = Costs(**told["costs"])
            return cls(
                told["about"], told["prompts"], costs, tuple(_strategy_read(each, costs) for each in told["strategies"])
            )
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(f"cannot read the calibration {file}: {error}; calibrate again") from None


def _strategy_written(strategy: Strategy) -> dict[str, Any]:
    policy = strategy.policy
    told: dict[str, Any] = {"threshold": _written(policy.threshold), "repair": policy.repair, "drafts": policy.drafts}
    told |= {"keep_best": policy.keep_best, "rollback": policy.rollback.value, "rollback_kind": policy.rollback.kind}
    told["good_enough"] = None if policy.good_enough is None else _written(policy.good_enough)
    repaired = None if strategy.repaired is None else [_written(score) for score in strategy.repaired.tolist()]
    return {"policy": told, "scores": strategy.scores.tolist(), "draws": strategy.draws.tolist(), "repaired": repaired}


def _strategy_read(told: Mapping[str, Any], costs: Costs) -> Strategy:
    p, scores = told["policy"], torch.tensor(told["scores"], dtype=torch.float64)
    enough = None if p["good_enough"] is None else float(p["good_enough"])
    rollback = Rollback(p["rollback"], p["rollback_kind"])
    policy = Policy(float(p["threshold"]), p["repair"], rollback, p["drafts"], p["keep_best"], enough)
    made = told["repaired"]
    repaired = None if made is None else torch.tensor([float(score) for score in made], dtype=torch.float64)
    if not len(scores) or not len(scores) == len(told["draws"]) == len(scores if repaired is None else repaired):
        several = "" if repaired is None else f" and {len(repaired)} repaired"
        raise ValueError(f"{len(scores)} scores, {len(told['draws'])} draws{several}")
    if not scores.isfinite().all() or (scores.diff() < 0).any():
        raise ValueError("its scores do not rise, or are not all finite")
    return Strategy(policy, costs, scores, torch.tensor(told["draws"]), repaired)


def _written(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)  # JSON has neither infinity nor NaN


def _extended(*words: str) -> Callable[[Any, str], None]:
    """Of numbers, and of those words for what JSON has no number for."""

    def check(value: Any, name: str) -> None:
        if value not in words:
            number(value, name)

    return check


_threshold, _score = _extended("inf", "-inf"), _extended("nan")
STRATEGY = fields(
    {
        "policy": fields(
            {"threshold": _threshold, "repair": text, "drafts": whole, "keep_best": flag, "rollback": number}
            | {"good_enough": optional(_threshold), "rollback_kind": text}
        ),
        "scores": each(number),
        "draws": each(whole),
        "repaired": optional(each(_score)),
    }
)
PARTS = fields({"schema": whole, "about": named(text), "prompts": text, "costs": COSTS, "strategies": each(STRATEGY)})


def identity(cascade: Cascade) -> dict[str, str]:
    """What the scores of drafts, and what a repair costs and brings, depend on, as hashes and words."""
    student, teacher, oracle = cascade.student, cascade.teacher, cascade.oracle
    model = student.model
    mine, theirs = _parts(model), _parts(teacher.model)
    hashes = " ".join(map(weights_sha256, mine))
    shared = len(mine) == len(theirs) and all(one is other for one, other in zip(mine, theirs, strict=True))
    told = {"student": student.sha256, "autoencoder and text encoders": hashes}
    told["teacher's autoencoder and text encoders"] = hashes if shared else " ".join(map(weights_sha256, theirs))
    told |= {f"{whose} schedule": _schedule_told(m) for whose, m in (("student", model), ("teacher", teacher.model))}
    told |= {"student steps": str(cascade.student_steps), "student guidance scale": f"{cascade.student_scale:g}"}
    told |= {"picture size": "x".join(map(str, model.image_size))}
    told |= {"teacher": weights_sha256(teacher.model.network), "teacher steps": str(teacher.num_steps)}
    told |= {"teacher guidance scale": f"{teacher.guidance_scale:g}", "solver": teacher.solver}
    name = getattr(oracle, "__qualname__", type(oracle).__qualname__)
    told["oracle"] = f"{name} {weights_sha256(oracle)}" if isinstance(oracle, nn.Module) else name
    if cascade.edit is not None:
        told["edit strength"] = f"{cascade.edit.kind} {cascade.edit.value}"
    for whose, beside in (("student", model.control), ("teacher", teacher.model.control)):
        if beside is not None:
            told[f"control of the {whose}"] = weights_sha256(beside.network)
    return told


def _parts(model: LatentDiffusion) -> list[nn.Module]:
    return [model.latents.autoencoder, *model.prompts.networks.values()]


def _schedule_told(model: LatentDiffusion) -> str:
    """What the network predicts, and a hash of the schedule at its training steps, in digits of any machine."""
    schedule = model.parametrization.schedule
    t = torch.arange(1, schedule.num_train_timesteps + 1, dtype=torch.float64) / schedule.num_train_timesteps
    values = torch.stack([schedule.log_snr(t), schedule.timestep(t).double()]).flatten().tolist()
    digest = hashlib.sha256(" ".join(f"{value:.6g}" for value in values).encode()).hexdigest()[:16]
    return f"{model.parametrization.prediction} {digest}"
