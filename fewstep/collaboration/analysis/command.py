"""`analyse`: where a student beats its teacher, as JSON, as a plot and in a few lines."""

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.choices import require_range
from fewstep.collaboration.analysis.covariates import DISTANCES
from fewstep.collaboration.analysis.pairs import Pairs, draw_pairs
from fewstep.collaboration.analysis.plot import draw
from fewstep.collaboration.analysis.predictors import Estimate, auc, logistic_regression, spearman, trend
from fewstep.collaboration.analysis.wins import (
    LEAST_AGREEMENT,
    outcomes,
    plan,
    sign_agreement,
    supports_a_claim,
    tie_band,
    win_shares,
)
from fewstep.collaboration.calibration import identity
from fewstep.collaboration.cascade import Cascade
from fewstep.collaboration.command_line.given_files import GivenFiles
from fewstep.collaboration.command_line.judges import (
    different_networks,
    load_judges,
    require_different,
)
from fewstep.collaboration.command_line.kept_lines import KeptLines, require_free_or_unfinished
from fewstep.files.durable import replace_file
from fewstep.files.prompt_files import Prompt

SCHEMA, UNFINISHED = 1, "unfinished.jsonl"


def check_analysis(options: argparse.Namespace) -> None:
    """ValueError in one line for what cannot be meant, before anything is loaded."""
    if len(options.judge) < 2:
        raise ValueError("one --judge shows no agreement: give two that differ, with other objectives than the oracle")
    require_different(options.oracle, options.judge)
    require_range("tie share", options.tie_share)
    if options.tie_share >= 1:
        raise ValueError(f"tie share={options.tie_share}: must be below 1")
    require_range("curvature steps", options.curvature_steps or 0)
    require_free_or_unfinished(options.out / UNFINISHED, options.overwrite)


def analysed(
    options: argparse.Namespace,
    cascade: Cascade,
    prompts: Sequence[Prompt],
    seeds: Sequence[str],
    asked: Mapping[str, Sequence[Any]],
    given: GivenFiles,
) -> str:
    """asked: what each judge, and "oracle", is told of each prompt. given: the pictures that come with them."""
    judges = load_judges(options.judge, asked, options.device)
    hashes = different_networks(cascade.oracle, judges)
    if len(set(hashes.values())) < len(hashes):
        raise ValueError("two judges have the same weights, so that their agreement says nothing: give other networks")
    distance, steps = DISTANCES[options.distance](), options.curvature_steps
    if isinstance(distance, nn.Module):
        distance.to(options.device)
    schedule = cascade.teacher.model.parametrization.schedule
    reason = ""
    if not schedule(torch.ones(1, dtype=torch.float64))[0].item():  # alpha = 0, as of a rectified flow
        reason = "the schedule begins in noise alone, where curvature has no meaning"
    elif cascade.edit is not None:
        reason = "edits begin in a picture, and curvature is of a trajectory from noise"
    if reason and steps:
        raise ValueError(f"{reason}: give --curvature-steps 0")
    steps = cascade.teacher.num_steps if steps is None and not reason else steps or 0
    texts = [prompt.text for prompt in prompts]
    about = {**identity(cascade), "judges": hashes, "distance": options.distance, "curvature steps": steps}
    about |= {"seed": options.seed}
    head = {"about": about, "prompts": given.digest(prompts)}
    kept = KeptLines(options.out / UNFINISHED, head, options.overwrite)
    shown = given.opened(cascade.student.model.image_size)
    pairs = draw_pairs(cascade, judges, texts, seeds, asked, distance, steps, shown, kept)
    told, outcome = report(pairs, options.tie_share)
    about |= {"tie share": options.tie_share}
    told = {"schema": SCHEMA, "about": about, **told}
    if reason:
        told["curvature"] = {"left_out": reason}
    replace_file(options.out / "pairs.jsonl", pairs.lines([prompt.key for prompt in prompts], texts, outcome))
    replace_file(options.out / "analysis.json", (json.dumps(told, indent=1) + "\n").encode())
    draw(told, options.out / "analysis.png")
    kept.file.unlink()
    return "\n".join([str(options.out), *summary(told)])


def report(pairs: Pairs, tie_share: float) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What is told of pairs, as plain values, and every judge's outcomes [N].

    What cannot be told of them, such as the effect of a covariate that is the same for all, is {"left_out": why}.
    """
    bands = {name: tie_band(scores[:, 0], scores[:, 1], tie_share) for name, scores in pairs.judges.items()}
    outcome = {name: outcomes(scores[:, 0], scores[:, 1], bands[name]) for name, scores in pairs.judges.items()}
    agreed = []
    for first, second in combinations(outcome, 2):
        share = sign_agreement(outcome[first], outcome[second])
        agreed.append({"judges": [first, second], "share": _plain(share), "enough": supports_a_claim(share)})
    told = {
        "num_pairs": len(pairs),
        "claim": all(each["enough"] for each in agreed),
        "agreement": agreed,
        "judges": {name: _by(pairs, name, bands[name], outcome[name]) for name in outcome},
        "spearman": {
            f"distance and {name}": _told(spearman, pairs.covariates["distance"], values)
            for name, values in pairs.covariates.items()
            if name != "distance"
        },
    }
    return told, outcome


def _by(pairs: Pairs, name: str, band: float, outcome: Tensor) -> dict[str, Any]:
    """What one judge tells."""
    _, teacher, again = pairs.judges[name].T
    shares, won, untied = win_shares(outcome), outcome == 1, outcome != 0
    alike = torch.corrcoef(pairs.judges[name].T)[:, 1].tolist()  # NaN where scores do not vary
    gap = pairs.oracle[:, 0] - pairs.oracle[:, 1]
    return {
        "tie_band": band,
        "shares": _plain(shares),
        "null": _plain(win_shares(outcomes(again, teacher, band))),
        "correlation_with_teacher": {
            side: None if math.isnan(alike[place]) else alike[place] for side, place in (("student", 0), ("again", 2))
        },
        "plan": _told(plan, shares.untied.value if shares.untied else math.nan, alike[0]),
        "trends": {key: _told(trend, won, values) for key, values in pairs.covariates.items()},
        "trends_untied": {key: _told(trend, won[untied], values[untied]) for key, values in pairs.covariates.items()},
        "logistic_regression": _told(_regression, won, pairs.covariates),
        "auc_untied": {
            "student's score": _told(auc, pairs.oracle[untied, 0], won[untied]),
            "student's less teacher's score": _told(auc, gap[untied], won[untied]),
        },
    }


def summary(told: Mapping[str, Any]) -> list[str]:
    """A few lines of a report. Covariates are named only where the judges agree."""
    lines = [f"{told['num_pairs']} pairs of one prompt and one noise"]
    for name, judged in told["judges"].items():
        null = f"a second draw of the teacher: {_shares(judged['null'])}"
        lines.append(f"{name}: student, teacher, ties: {_shares(judged['shares'])}; {null}")
    for each in told["agreement"]:
        share = each["share"]
        found = "have no pair that neither calls a tie" if share is None else f"agree on {_percent(share)} of the rest"
        claim = "" if each["enough"] else f": below {LEAST_AGREEMENT:.0%}, so nothing is claimed"
        lines.append(f"{' and '.join(each['judges'])} {found}{claim}")
    if told["claim"]:
        judged = next(iter(told["judges"].values()))
        for name, found in judged["trends"].items():
            if "left_out" not in found:
                wins = " ".join(f"{group['won']['value']:.0%}" for group in found["groups"])
                lines.append(f"student wins from low to high {name}: {wins} (trend p = {found['p']:.2g})")
    reasons: dict[str, list[str]] = {}
    for where, why in left_out(told):
        reasons.setdefault(why, []).append(where)
    return [*lines, *(f"left out in {len(places)} places ({places[0]}): {why}" for why, places in reasons.items())]


def left_out(told: Any, where: str = "") -> list[tuple[str, str]]:
    """(where, why) of all that a report leaves out."""
    if not isinstance(told, dict):
        return []
    if "left_out" in told:
        return [(where, told["left_out"])]
    return [found for name, part in told.items() for found in left_out(part, f"{where}, {name}" if where else name)]


def _shares(shares: Mapping[str, Any]) -> str:
    return ", ".join(_percent(shares[side]) for side in ("student", "teacher", "tie"))


def _percent(share: Mapping[str, float]) -> str:
    return f"{share['value']:.1%} [{share['low']:.1%}, {share['high']:.1%}]"


def _regression(won: Tensor, covariates: Mapping[str, Tensor]) -> dict[str, Estimate]:
    """On the covariates that are not the same for all."""
    varying = {name: values for name, values in covariates.items() if values.min() < values.max()}
    if not varying:
        raise ValueError("every covariate is the same for all pairs")
    fitted = logistic_regression(won, torch.stack(list(varying.values()), 1))
    return dict(zip(("intercept", *varying), fitted, strict=True))


def _told(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return _plain(function(*arguments))
    except ValueError as error:
        return {"left_out": str(error)}


def _plain(value: Any) -> Any:
    """Of named tuples, as JSON has it."""
    value = value._asdict() if hasattr(value, "_asdict") else value
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, tuple) else value
