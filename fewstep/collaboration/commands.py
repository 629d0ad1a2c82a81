"""What the commands of `python -m fewstep.collaboration` do: files in, files out, one line told."""

import argparse
import gc
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep.collaboration.cascade import Collaborated
from fewstep.collaboration.drawn_files import DrawnFiles
from fewstep.collaboration.oracles import READS_ATTRIBUTES
from fewstep.collaboration.pipeline import Collaboration
from fewstep.collaboration.policy import Policy
from fewstep.collaboration.rollback import Rollback
from fewstep.diffusion.prompt_encoder import token_ids
from fewstep.files.pictures import as_png, to_picture
from fewstep.files.prompt_files import Prompt, read_prompt_file
from fewstep.icd.commands import require_device
from fewstep.rewards.attributes import AttributeReward, labels_of, listed

BATCHES = 4  # of the student, after which pictures are written


def calibrate(options: argparse.Namespace) -> str:
    if options.out.exists() and (options.out.is_dir() or not options.overwrite):
        told = "is a folder" if options.out.is_dir() else "is there already"
        raise ValueError(
            f"--out {options.out} {told}; name another file{'' if options.out.is_dir() else ', or give --overwrite'}"
        )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    policy = chosen_policy(options)
    prompts = read_prompt_file(options.prompts)
    asked = asked_of(prompts, options.oracle)
    pipe = _pipeline(options, asked)
    check_all(pipe, prompts, asked)
    found = pipe.calibrated([prompt.text for prompt in prompts], _seeds(prompts, options.seed), policy, asked)
    known = found.calibration
    assert known is not None
    known.save(options.out)
    low, middle, high = torch.quantile(known.scores, torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)).tolist()
    told = f"{options.out}  {len(prompts)} prompts  scores {low:.3g} {middle:.3g} {high:.3g} (10, 50, 90 %)"
    most = known.draft_passes + known.repair_passes
    return f"{told}  drafts {known.draft_passes:.2f} passes, with every repair {most:.2f}"


def draw(options: argparse.Namespace) -> str:
    prompts = read_prompt_file(options.prompts)
    asked = asked_of(prompts, options.oracle)
    if not options.calibration.is_file():
        raise ValueError(f"--calibration {options.calibration} is not there; make it with `calibrate`")
    pipe = _pipeline(options, asked, options.calibration)
    check_all(pipe, prompts, asked)
    policy = pipe.chosen(options.mean_passes, options.k)
    assert pipe.calibration is not None
    about = {**pipe.calibration.about, "policy": repr(policy), "seed": options.seed}
    files = DrawnFiles(options.out, about, options.overwrite)
    files.check({prompt.key: (prompt.text, prompt.attributes) for prompt in prompts})
    left = [place for place, prompt in enumerate(prompts) if prompt.key not in files.done]
    step = BATCHES * options.batch_size
    for start in range(0, len(left), step):
        some = left[start : start + step]
        told = [prompts[place] for place in some]
        result = pipe([p.text for p in told], _seeds(told, options.seed), policy=policy, asked=[asked[p] for p in some])
        rows = rows_of(told, result, policy, pipe.passes(result, policy))
        files.add(rows, [as_png(to_picture(image)) for image in result.images.split(1)])
    return summary(options.out, [files.done[prompt.key] for prompt in prompts], policy)


COMMANDS: Mapping[str, Callable[[argparse.Namespace], str]] = {"calibrate": calibrate, "draw": draw}


def chosen_policy(options: argparse.Namespace) -> Policy:
    rollback = Rollback(0.5 if options.rollback_variance is None else options.rollback_variance)
    if options.rollback_time is not None:
        rollback = Rollback(options.rollback_time, "time")
    if (options.drafts > 1) != (options.good_enough is not None):
        raise ValueError("--drafts above 1 and --good-enough belong together: more are drawn until one is good enough")
    return Policy(-math.inf, options.repair, rollback, options.drafts, options.keep_best, options.good_enough)


def asked_of(prompts: Sequence[Prompt], oracle: str) -> list[Any]:
    """What the oracle is told of each: its attributes, or the prompt itself. ValueError in one line."""
    if oracle.partition("=")[0] != READS_ATTRIBUTES:
        return [prompt.text for prompt in prompts]
    if lacking := [prompt.key for prompt in prompts if not prompt.attributes]:
        raise ValueError(f"prompt {lacking[0]} has no attributes, which --oracle {oracle} reads; write a .jsonl file")
    return [prompt.attributes for prompt in prompts]


def check_all(pipe: Collaboration, prompts: Sequence[Prompt], asked: Sequence[Any]) -> None:
    """ValueError in one line for a prompt that is too long, or attributes that the oracle cannot read."""
    for model in (pipe.cascade.student.model, pipe.cascade.teacher.model):
        token_ids(model.prompts.tokenizer, [prompt.text for prompt in prompts], model.prompts.length, truncate=False)
    if isinstance(pipe.cascade.oracle, AttributeReward):
        labels_of([person for several in listed(asked) for person in several], pipe.cascade.oracle.reader.values)


def rows_of(prompts: Sequence[Prompt], result: Collaborated, policy: Policy, passes: Tensor) -> list[dict[str, Any]]:
    """What is told of every picture. score: null where the oracle has not looked at it."""
    columns = zip(
        prompts, result.routes(policy.repair), result.drafts.tolist(), result.draft_scores.tolist(),
        result.scores.tolist(), passes.tolist(), result.seconds.tolist(), strict=True,
    )  # fmt: skip
    return [
        {
            "key": prompt.key,
            "prompt": prompt.text,
            "attributes": prompt.attributes,
            "route": route,
            "drafts": drafts,
            "draft_score": round(draft_score, 6),
            "score": None if math.isnan(score) else round(score, 6),
            "passes": round(cost, 4),
            "seconds": round(seconds, 4),
        }
        for prompt, route, drafts, draft_score, score, cost, seconds in columns
    ]


def summary(out: Path, rows: Sequence[Mapping[str, Any]], policy: Policy) -> str:
    passes = torch.tensor([row["passes"] for row in rows], dtype=torch.float64)
    share = sum(row["route"] != "keep" for row in rows) / len(rows)
    middle, high = torch.quantile(passes, torch.tensor([0.5, 0.95], dtype=torch.float64)).tolist()
    told = f"{out}  {len(rows)} pictures, {share:.0%} of them {policy.repair}d"
    return f"{told}  passes {passes.mean():.2f} on average, half within {middle:.2f}, 95 % within {high:.2f}"


def _pipeline(options: argparse.Namespace, asked: Sequence[Any], calibration: Path | None = None) -> Collaboration:
    require_device(options.device)
    pipe = Collaboration.from_pretrained(
        options.student,
        options.teacher,
        options.oracle,
        calibration,
        student_steps=options.student_steps,
        student_scale=options.student_scale,
        teacher_steps=options.teacher_steps,
        teacher_scale=options.teacher_scale,
        solver=options.solver,
        batch_size=options.batch_size,
        asked=asked[0],
        dtype=getattr(torch, options.dtype),
        device=options.device,
        image_size=options.size,
    )
    gc.enable()  # what follows takes long
    return pipe


def _seeds(prompts: Sequence[Prompt], seed: int) -> list[str]:
    return [f"{seed}:{prompt.key}" for prompt in prompts]
